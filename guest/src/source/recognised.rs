//! Sources that are recognised and not spoken yet.
//!
//! Falling through to the metadata service would act as another identity than the one that the environment announces,
//! so each of these is an error with a name.

use super::Detection;
use crate::environment::Environment;
use crate::error::{Cause, Error};

/// `IDENTITY_ENDPOINT`, `IDENTITY_HEADER` and `IDENTITY_SERVER_THUMBPRINT` together announce Service Fabric.
pub(super) fn service_fabric(environment: &Environment) -> Detection {
    let all = ["IDENTITY_ENDPOINT", "IDENTITY_HEADER", "IDENTITY_SERVER_THUMBPRINT"];
    not_spoken(
        all.iter().all(|name| environment.has(name)),
        "service-fabric",
        "Service Fabric",
        "IDENTITY_ENDPOINT, IDENTITY_HEADER and IDENTITY_SERVER_THUMBPRINT",
    )
}

/// `IDENTITY_ENDPOINT` and `IMDS_ENDPOINT` together announce Azure Arc.
pub(super) fn azure_arc(environment: &Environment) -> Detection {
    not_spoken(
        environment.has("IDENTITY_ENDPOINT") && environment.has("IMDS_ENDPOINT"),
        "azure-arc",
        "Azure Arc",
        "IDENTITY_ENDPOINT and IMDS_ENDPOINT",
    )
}

/// `IDENTITY_ENDPOINT` alone announces nothing: the secret that its protocol needs is missing.
pub(super) fn incomplete_identity_endpoint(environment: &Environment) -> Detection {
    if !environment.has("IDENTITY_ENDPOINT") {
        return Detection::No("IDENTITY_ENDPOINT is not set.".to_owned());
    }
    Detection::Failed(
        Error::new(
            Cause::NotConfigured,
            "IDENTITY_ENDPOINT is set, and neither IDENTITY_HEADER (App Service) nor IMDS_ENDPOINT (Azure Arc) is. Set \
             the other variable too, or unset IDENTITY_ENDPOINT to use the instance metadata service.",
        ),
        "IDENTITY_ENDPOINT is set without a variable that says which protocol it speaks.".to_owned(),
    )
}

/// `MSI_ENDPOINT` announces Cloud Shell, and with `MSI_SECRET` Azure Machine Learning.
pub(super) fn msi_endpoint(environment: &Environment) -> Detection {
    let (name, product) = if environment.has("MSI_SECRET") {
        ("azure-ml", "Azure Machine Learning")
    } else {
        ("cloud-shell", "Cloud Shell")
    };
    not_spoken(environment.has("MSI_ENDPOINT"), name, product, "MSI_ENDPOINT")
}

/// The three variables that the workload identity webhook sets announce AKS workload identity.
pub(super) fn workload_identity(environment: &Environment) -> Detection {
    let all = ["AZURE_AUTHORITY_HOST", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE"];
    not_spoken(
        all.iter().all(|name| environment.has(name)),
        "workload-identity",
        "AKS workload identity",
        "AZURE_AUTHORITY_HOST, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE",
    )
}

fn not_spoken(announced: bool, name: &str, product: &str, variables: &str) -> Detection {
    if !announced {
        return Detection::No(format!("{product}: no, it would need {variables}."));
    }
    Detection::Failed(
        Error::new(
            Cause::Unsupported,
            format!(
                "The environment announces {product} ({variables}), which this version does not speak. Unset those \
                 variables to use another source."
            ),
        )
        .with_source(name),
        format!("{variables} announce {product}."),
    )
}
