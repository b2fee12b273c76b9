//! The way on which a request came.

/// Over which kind of connection a request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    Plain,
    Tls {
        /// The name that the client expected the server to have (SNI); there is none when it used an address.
        server_name: Option<String>,
    },
}

impl Arrival {
    pub(crate) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls { .. })
    }

    pub(crate) fn server_name(&self) -> Option<&str> {
        match self {
            Self::Plain => None,
            Self::Tls { server_name } => server_name.as_deref(),
        }
    }
}
