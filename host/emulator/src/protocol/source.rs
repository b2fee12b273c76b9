//! The names of the identity sources.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An identity source: the protocol that a client speaks to get a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The instance metadata service of virtual machines.
    Imds,
    /// App Service, Functions and Container Apps, version 2019-08-01.
    AppService,
    /// App Service and Functions, version 2017-09-01.
    #[serde(rename = "app-service-2017")]
    AppService2017,
    /// Azure Machine Learning, whose protocol is that of App Service 2017.
    AzureMl,
    /// The agent of Azure Arc on a machine outside Azure.
    AzureArc,
    /// Service Fabric, over TLS.
    ServiceFabric,
    /// Cloud Shell.
    CloudShell,
    /// The workload identity of AKS: Entra's token endpoint, over TLS.
    WorkloadIdentity,
    /// Workload identity by way of the token proxy of AKS identity bindings, over TLS.
    IdentityBindings,
    /// The proxy sidecar of workload identity, which looks like IMDS.
    WorkloadIdentityProxy,
    /// The node-managed identity server of pod identity, which looks like IMDS.
    Nmi,
}

impl Source {
    /// Every source.
    pub const ALL: &'static [Self] = &[
        Self::Imds,
        Self::AppService,
        Self::AppService2017,
        Self::AzureMl,
        Self::AzureArc,
        Self::ServiceFabric,
        Self::CloudShell,
        Self::WorkloadIdentity,
        Self::IdentityBindings,
        Self::WorkloadIdentityProxy,
        Self::Nmi,
    ];

    /// The name, as the control endpoint and the command line have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Imds => "imds",
            Self::AppService => "app-service",
            Self::AppService2017 => "app-service-2017",
            Self::AzureMl => "azure-ml",
            Self::AzureArc => "azure-arc",
            Self::ServiceFabric => "service-fabric",
            Self::CloudShell => "cloud-shell",
            Self::WorkloadIdentity => "workload-identity",
            Self::IdentityBindings => "identity-bindings",
            Self::WorkloadIdentityProxy => "workload-identity-proxy",
            Self::Nmi => "nmi",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Source {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .iter()
            .copied()
            .find(|source| source.name() == name)
            .ok_or_else(|| {
                let names: Vec<_> = Self::ALL.iter().map(|source| source.name()).collect();
                format!("{name:?} is not an identity source; there are {}", names.join(", "))
            })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "the test set up what it unwraps")]

    use super::*;
    use crate::protocol::ENDPOINTS;

    #[test]
    fn every_source_has_one_name_and_one_endpoint() {
        for source in Source::ALL {
            assert_eq!(serde_json::to_value(source).unwrap(), source.name());
            assert_eq!(source.name().parse(), Ok(*source));
            let endpoints = ENDPOINTS.iter().filter(|endpoint| endpoint.source == *source);
            assert_eq!(endpoints.count(), 1, "{source}");
        }
        assert!("smtp".parse::<Source>().unwrap_err().contains("azure-arc"));
    }
}
