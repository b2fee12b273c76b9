//! Which identity a query chooses.

use super::query::Query;
use super::refusal::Refusal;
use managed_identity_host::Identity;

/// A parameter that chooses an identity, and how.
pub(super) type Selector = (&'static str, fn(String) -> Identity);

/// The identity that a query chooses by one of these parameters, if it chooses any.
///
/// `foreign` are the parameters by which other endpoints choose, and the name that each has here. To ignore them, as the
/// platform's endpoints do, would give a token of another identity than was asked for.
pub(super) fn chosen(
    query: &Query<'_>,
    selectors: &[Selector],
    foreign: &[(&str, &str)],
) -> Result<Option<Identity>, Refusal> {
    for (name, right) in foreign {
        if query.get(name).is_some() {
            return Err(Refusal::malformed(format!(
                "Query parameter '{name}' is not one of this endpoint's. Use '{right}'."
            )));
        }
    }
    let mut chosen = None;
    for (name, identity) in selectors {
        match query.get(name) {
            None => {}
            Some("") => {
                return Err(Refusal::malformed(format!(
                    "Query parameter '{name}' is empty. Leave it out to get the default identity."
                )));
            }
            Some(_) if chosen.is_some() => return Err(several(selectors)),
            Some(value) => chosen = Some(identity(value.to_owned())),
        }
    }
    Ok(chosen)
}

fn several(selectors: &[Selector]) -> Refusal {
    let names: Vec<_> = selectors.iter().map(|(name, _)| *name).collect();
    let (last, others) = names
        .split_last()
        .map_or(("", &[] as &[&str]), |(last, others)| (*last, others));
    Refusal::malformed(format!(
        "Only one of {} and {last} may be specified.",
        others.join(", ")
    ))
}
