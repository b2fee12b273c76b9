//! Managed identity inside Envoy: a dynamic module with an HTTP filter.
