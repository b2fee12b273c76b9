//! Real, unmodified Envoy with each of the three ways to give it tokens.
