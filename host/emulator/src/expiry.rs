//! How a reply writes when its token expires.
//!
//! The documented forms are few; the forms seen on real machines are not, and clients fail on them. The configured
//! [`ExpiresOn`] and [`ExpiresIn`] replace the documented ones.

use serde_json::{Map, Value};

use crate::clock;
use crate::settings::{ExpiresIn, ExpiresOn, Settings};
use crate::token::Issued;

/// The documented forms of one protocol, for which `Documented` stands.
pub(crate) struct DocumentedExpiry {
    pub expires_on: ExpiresOn,
    pub expires_in: ExpiresIn,
    /// Whether the protocol has `ext_expires_in`, the lifetime for which a token may be used while Entra is down.
    pub ext_expires_in: bool,
}

/// Writes `expires_on`, `expires_in`, `ext_expires_in` and `refresh_in` into a reply.
pub(crate) fn write(
    reply: &mut Map<String, Value>,
    issued: &Issued,
    documented: &DocumentedExpiry,
    settings: &Settings,
) {
    let expires_on = match settings.expires_on {
        ExpiresOn::Documented => documented.expires_on,
        chosen => chosen,
    };
    let moment = match expires_on {
        ExpiresOn::Documented | ExpiresOn::String => Some(issued.expires_on.to_string().into()),
        ExpiresOn::Number => Some(issued.expires_on.into()),
        ExpiresOn::Iso8601 => Some(clock::iso8601(issued.expires_on).into()),
        ExpiresOn::MonthDayYear => Some(clock::month_day_year(issued.expires_on).into()),
        ExpiresOn::Absent => None,
    };
    if let Some(moment) = moment {
        reply.insert("expires_on".to_owned(), moment);
    }

    let expires_in = match settings.expires_in {
        ExpiresIn::Documented => documented.expires_in,
        chosen => chosen,
    };
    if let Some(seconds) = in_seconds(expires_in, issued.expires_in) {
        if documented.ext_expires_in {
            reply.insert("ext_expires_in".to_owned(), seconds.clone());
        }
        reply.insert("expires_in".to_owned(), seconds);
    }

    // A number of seconds like `expires_in`, so it is written in the same form.
    let refresh_in = settings
        .refresh_in
        .map(|seconds| i64::try_from(seconds).unwrap_or(i64::MAX));
    if let Some(seconds) = refresh_in {
        let form = if expires_in == ExpiresIn::Number {
            ExpiresIn::Number
        } else {
            ExpiresIn::String
        };
        reply.extend(in_seconds(form, seconds).map(|seconds| ("refresh_in".to_owned(), seconds)));
    }
}

fn in_seconds(form: ExpiresIn, seconds: i64) -> Option<Value> {
    match form {
        ExpiresIn::Documented | ExpiresIn::String => Some(seconds.to_string().into()),
        ExpiresIn::Number => Some(seconds.into()),
        ExpiresIn::Absent => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn written(documented: &DocumentedExpiry, settings: &Settings) -> Value {
        let issued = Issued {
            access_token: String::new(),
            client_id: String::new(),
            resource: String::new(),
            not_before: 1_729_280_797,
            expires_on: 1_729_281_097,
            expires_in: 300,
        };
        let mut reply = Map::new();
        write(&mut reply, &issued, documented, settings);
        Value::Object(reply)
    }

    const ALL: DocumentedExpiry = DocumentedExpiry {
        expires_on: ExpiresOn::String,
        expires_in: ExpiresIn::String,
        ext_expires_in: true,
    };
    const MOMENT_ONLY: DocumentedExpiry = DocumentedExpiry {
        expires_on: ExpiresOn::String,
        expires_in: ExpiresIn::Absent,
        ext_expires_in: false,
    };

    #[test]
    fn the_documented_form_is_written_unless_another_is_chosen() {
        let default = Settings::default();
        assert_eq!(
            written(&ALL, &default),
            json!({"expires_on": "1729281097", "expires_in": "300", "ext_expires_in": "300"})
        );
        assert_eq!(written(&MOMENT_ONLY, &default), json!({"expires_on": "1729281097"}));
    }

    #[test]
    fn every_form_can_be_chosen() {
        let settings = |expires_on, expires_in, refresh_in| Settings {
            expires_on,
            expires_in,
            refresh_in,
            ..Settings::default()
        };
        for (chosen, expected) in [
            (
                settings(ExpiresOn::Number, ExpiresIn::Number, Some(7)),
                json!({"expires_on": 1_729_281_097, "expires_in": 300, "ext_expires_in": 300, "refresh_in": 7}),
            ),
            (
                settings(ExpiresOn::Iso8601, ExpiresIn::Absent, Some(7)),
                json!({"expires_on": "2024-10-18T19:51:37.0000000+00:00", "refresh_in": "7"}),
            ),
            (
                settings(ExpiresOn::MonthDayYear, ExpiresIn::Absent, None),
                json!({"expires_on": "10/18/2024 19:51:37 +00:00"}),
            ),
            (
                settings(ExpiresOn::Absent, ExpiresIn::String, None),
                json!({"expires_in": "300", "ext_expires_in": "300"}),
            ),
            (settings(ExpiresOn::Absent, ExpiresIn::Absent, None), json!({})),
        ] {
            assert_eq!(written(&ALL, &chosen), expected);
        }
        let seconds_too = settings(ExpiresOn::Documented, ExpiresIn::Number, None);
        assert_eq!(
            written(&MOMENT_ONLY, &seconds_too),
            json!({"expires_on": "1729281097", "expires_in": 300})
        );
    }
}
