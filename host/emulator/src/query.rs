//! The query of a request, decoded as forms are (`application/x-www-form-urlencoded`).

/// Decoded parameters in the order in which they were sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: &str) -> Self {
        Self(url::form_urlencoded::parse(raw.as_bytes()).into_owned().collect())
    }

    /// The value of the first parameter of this name.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(sent, _)| sent == name)
            .map(|(_, value)| value.as_str())
    }

    /// A name that was sent twice. Case does not count, because Azure's servers do not count it.
    pub(crate) fn duplicate(&self) -> Option<&str> {
        self.0.iter().enumerate().find_map(|(at, (name, _))| {
            self.0[..at]
                .iter()
                .any(|(earlier, _)| earlier.eq_ignore_ascii_case(name))
                .then_some(name.as_str())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_decoded() {
        let query = Query::parse("resource=https%3A%2F%2Fvault.azure.net&empty=&flag&plus=a+b&bad=%zz%ff");
        for (name, value) in [
            ("resource", Some("https://vault.azure.net")),
            ("empty", Some("")),
            ("flag", Some("")),
            ("plus", Some("a b")),
            ("bad", Some("%zz\u{fffd}")),
            ("Resource", None),
        ] {
            assert_eq!(query.get(name), value, "{name}");
        }
    }

    #[test]
    fn duplicate_names_are_found_whatever_their_case() {
        for (raw, duplicate) in [
            ("a=1&b=2", None),
            ("a=1&b=2&a=1", Some("a")),
            ("resource=1&Resource=2", Some("Resource")),
            ("", None),
        ] {
            assert_eq!(Query::parse(raw).duplicate(), duplicate, "{raw}");
        }
    }
}
