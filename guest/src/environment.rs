//! The environment variables that decide where tokens come from.

/// Every variable that detection looks at. A host hands these to the provider and no others.
pub const VARIABLES: &[&str] = &[
    "AZURE_AUTHORITY_HOST",
    "AZURE_CLIENT_ID",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_KUBERNETES_CA_DATA",
    "AZURE_KUBERNETES_CA_FILE",
    "AZURE_KUBERNETES_SNI_NAME",
    "AZURE_KUBERNETES_TOKEN_PROXY",
    "AZURE_POD_IDENTITY_AUTHORITY_HOST",
    "AZURE_TENANT_ID",
    "DEFAULT_IDENTITY_CLIENT_ID",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MANAGED_IDENTITY_USE_TOKEN_PROXY",
    "MSI_ENDPOINT",
    "MSI_SECRET",
    "ProgramData",
    "WEBSITE_SITE_NAME",
];

/// Where the agent of Azure Arc leaves its keys on Linux.
pub const ARC_DIRECTORY: &str = "/var/opt/azcmagent/tokens";

/// Where it leaves them on Windows, below `%ProgramData%`.
pub const ARC_DIRECTORY_WINDOWS: &str = "\\AzureConnectedMachineAgent\\Tokens";

/// The environment as detection sees it: an empty variable counts as unset.
#[derive(Clone, Default)]
pub struct Environment {
    variables: Vec<(String, String)>,
    arc_agent: bool,
}

impl Environment {
    /// Keeps the [`VARIABLES`] that have a value.
    pub fn new(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        Self {
            variables: variables
                .into_iter()
                .filter(|(name, value)| VARIABLES.contains(&name.as_str()) && !value.is_empty())
                .collect(),
            arc_agent: false,
        }
    }

    /// The same environment on a machine where the agent of Azure Arc is installed, or not. Installed, it need not be
    /// announced by variables. A host knows it by the agent's program; the component, by being granted
    /// [`ARC_DIRECTORY`] or its counterpart on Windows.
    #[must_use]
    pub fn with_arc_agent(mut self, installed: bool) -> Self {
        self.arc_agent = installed;
        self
    }

    /// Whether the agent of Azure Arc is installed.
    #[must_use]
    pub fn has_arc_agent(&self) -> bool {
        self.arc_agent
    }

    /// The value of a variable that is set and not empty.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        debug_assert!(VARIABLES.contains(&name), "{name} is missing from VARIABLES");
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Whether a variable is set and not empty.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The variables that are set, for handing on.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }
}
