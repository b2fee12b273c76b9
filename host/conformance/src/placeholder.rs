//! What stands in a case for things that are known only when it is played.

use humantime::format_rfc3339_seconds;
use serde_json::{Number, Value};
use std::time::{Duration, SystemTime};

/// What the placeholders of one case stand for.
#[derive(Clone, Debug)]
pub struct Values {
    /// `${endpoint}`: the base URL of the scripted server, without a slash at its end. `${host}` is its authority.
    pub endpoint: String,
    /// `${closed}`: the base URL of a port where nothing listens.
    pub closed: String,
    /// `${now}`: when the case began, in seconds since 1970-01-01T00:00:00Z.
    pub now: u64,
    /// `${dir}`: an empty directory of the case's own.
    pub directory: String,
    /// What is known of the server's certificate, when it has one.
    pub certificate: Option<CertificateValues>,
}

/// What the placeholders that concern TLS stand for.
#[derive(Clone, Debug)]
pub struct CertificateValues {
    /// `${thumbprint}`: the SHA-1 digest of the certificate, in 40 hexadecimal digits.
    pub thumbprint: String,
    /// `${ca_file}`: where the certificate of its authority is, in PEM.
    pub ca_file: String,
    /// `${ca_data}`: that PEM text.
    pub ca_data: String,
}

impl CertificateValues {
    /// The thumbprint in pairs of digits.
    fn separated(&self, separator: &str) -> String {
        let digits: Vec<_> = self.thumbprint.chars().collect();
        let pairs: Vec<String> = digits.chunks(2).map(|pair| pair.iter().collect()).collect();
        pairs.join(separator)
    }
}

impl Values {
    /// Host and port of the scripted server.
    #[must_use]
    pub fn host(&self) -> &str {
        authority(&self.endpoint)
    }

    /// Replaces every placeholder in `text`.
    ///
    /// # Errors
    /// A sentence that names the placeholder, when there is none of that name.
    pub fn expand(&self, text: &str) -> Result<String, String> {
        let mut expanded = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, after) = after
                .split_once('}')
                .ok_or_else(|| format!("`{text}` has a `${{` without a `}}`"))?;
            expanded.push_str(before);
            expanded.push_str(&self.value(name)?);
            rest = after;
        }
        expanded.push_str(rest);
        Ok(expanded)
    }

    fn value(&self, name: &str) -> Result<String, String> {
        let certificate = || {
            self.certificate
                .as_ref()
                .ok_or_else(|| format!("`${{{name}}}` needs `\"server\": \"https\"`"))
        };
        Ok(match name {
            "endpoint" => self.endpoint.clone(),
            "host" => self.host().to_owned(),
            "closed" => self.closed.clone(),
            "dir" => self.directory.clone(),
            "thumbprint" => certificate()?.thumbprint.clone(),
            "thumbprint:lower" => certificate()?.thumbprint.to_lowercase(),
            "thumbprint:colons" => certificate()?.separated(":"),
            "thumbprint:spaces" => certificate()?.separated(" "),
            "ca_file" => certificate()?.ca_file.clone(),
            "ca_data" => certificate()?.ca_data.clone(),
            _ => {
                let (form, moment) = name.rsplit_once(':').unwrap_or(("", name));
                let seconds = offset(moment)
                    .and_then(|offset| self.now.checked_add_signed(offset))
                    .ok_or_else(|| format!("there is no placeholder `${{{name}}}`"))?;
                written(form, seconds).ok_or_else(|| format!("there is no placeholder `${{{name}}}`"))?
            }
        })
    }

    /// Replaces every placeholder in a document. In the bodies of replies, a text that is `#` and one placeholder becomes
    /// a number. The moments of an expectation are left as they are, because they say how exact they are meant.
    pub(crate) fn expand_document(&self, document: &mut Value) -> Result<(), String> {
        self.walk(document, Place::Elsewhere)
    }

    fn walk(&self, value: &mut Value, place: Place) -> Result<(), String> {
        match value {
            Value::String(text) => {
                let number = (place == Place::Body).then(|| text.strip_prefix('#')).flatten();
                match number.filter(|text| text.starts_with("${") && text.find('}') == Some(text.len() - 1)) {
                    Some(placeholder) => {
                        let expanded = self.expand(placeholder)?;
                        let number: Number = expanded.parse().map_err(|_| format!("`{expanded}` is no number"))?;
                        *value = Value::Number(number);
                    }
                    None => *text = self.expand(text)?,
                }
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.walk(item, place))?,
            Value::Object(fields) => {
                for (name, field) in fields.iter_mut() {
                    let place = match (place, name.as_str()) {
                        (Place::Body, _) | (_, "body") => Place::Body,
                        (Place::Elsewhere, "expect") => Place::Expectation,
                        (Place::Expectation, "expires_on" | "refresh_on") => continue,
                        _ => place,
                    };
                    self.walk(field, place)?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        Ok(())
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Elsewhere,
    Body,
    Expectation,
}

/// Host and port in a base URL.
pub(crate) fn authority(url: &str) -> &str {
    url.split_once("://").map_or(url, |(_, authority)| authority)
}

/// The seconds in `now`, `now+N` and `now-N`.
pub(crate) fn offset(moment: &str) -> Option<i64> {
    match moment.strip_prefix("now")? {
        "" => Some(0),
        signed => {
            let (sign, digits) = signed.split_at_checked(1)?;
            let seconds: i64 = digits
                .bytes()
                .all(|byte| byte.is_ascii_digit())
                .then(|| digits.parse().ok())??;
            match sign {
                "+" => Some(seconds),
                "-" => Some(-seconds),
                _ => None,
            }
        }
    }
}

/// A moment in one of the forms that platforms write.
fn written(form: &str, seconds: u64) -> Option<String> {
    if form.is_empty() {
        return Some(seconds.to_string());
    }
    let moment = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
    // 9999-12-31T23:59:59Z is the last moment that these forms can write.
    let text = (seconds <= 253_402_300_799).then(|| format_rfc3339_seconds(moment).to_string())?;
    let (date, time) = text.trim_end_matches('Z').split_once('T')?;
    let [year, month, day] = date.split('-').collect::<Vec<_>>().try_into().ok()?;
    let (hour, below) = time.split_once(':')?;
    match form {
        "iso" => Some(format!("{date}T{time}.0000000+00:00")),
        "us24" => Some(format!("{month}/{day}/{year} {time} +00:00")),
        "us12" => {
            let hour: u8 = hour.parse().ok()?;
            let half = if hour < 12 { "AM" } else { "PM" };
            let hour = (hour + 11) % 12 + 1;
            let (month, day) = (month.trim_start_matches('0'), day.trim_start_matches('0'));
            Some(format!("{month}/{day}/{year} {hour}:{below} {half} +00:00"))
        }
        "http-date" => {
            const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
            const MONTHS: [&str; 12] = [
                "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
            ];
            let weekday = DAYS[usize::try_from(seconds / 86_400 % 7).ok()?];
            let month = MONTHS.get(month.parse::<usize>().ok()?.checked_sub(1)?)?;
            Some(format!("{weekday}, {day} {month} {year} {time} GMT"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn values() -> Values {
        Values {
            endpoint: "http://127.0.0.1:41741".to_owned(),
            closed: "http://127.0.0.1:41742".to_owned(),
            // 2024-10-18T19:51:37Z
            now: 1_729_281_097,
            directory: "/d".to_owned(),
            certificate: None,
        }
    }

    #[test]
    fn placeholders_become_what_they_stand_for() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${endpoint}/msi/token", "http://127.0.0.1:41741/msi/token"),
            ("${host} ${closed}", "127.0.0.1:41741 http://127.0.0.1:41742"),
            ("${dir}/token", "/d/token"),
            ("${now}", "1729281097"),
            ("${now+3600} ${now-97}", "1729284697 1729281000"),
            ("${iso:now}", "2024-10-18T19:51:37.0000000+00:00"),
            ("${http-date:now+10}", "Fri, 18 Oct 2024 19:51:47 GMT"),
            ("${us24:now}", "10/18/2024 19:51:37 +00:00"),
            ("${us12:now}", "10/18/2024 7:51:37 PM +00:00"),
            ("${us12:now-71497}", "10/18/2024 12:00:00 AM +00:00"),
            ("#${now}", "#1729281097"),
        ] {
            assert_eq!(values().expand(text).as_deref(), Ok(expected), "{text}");
        }
        let certificate = CertificateValues {
            thumbprint: "AB01".to_owned(),
            ca_file: "/ca.pem".to_owned(),
            ca_data: "PEM".to_owned(),
        };
        let https = Values {
            certificate: Some(certificate),
            ..values()
        };
        let forms = "${thumbprint} ${thumbprint:lower} ${thumbprint:colons} ${thumbprint:spaces} ${ca_file} ${ca_data}";
        assert_eq!(https.expand(forms).as_deref(), Ok("AB01 ab01 AB:01 AB 01 /ca.pem PEM"));
        for bad in [
            "${",
            "${nothing}",
            "${now+}",
            "${now+ 1}",
            "${now*2}",
            "${iso:dir}",
            "${epoch:now}",
            "${ca_file}",
        ] {
            assert!(values().expand(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_is_made_in_bodies_and_moments_of_expectations_are_left() {
        let mut document = json!({
            "environment": { "A": "#${now}" },
            "body": { "expires_on": "#${now+1}", "deep": [{ "x": "#${now}", "y": "${now}" }] },
            "expect": { "token": "${host}", "expires_on": "${now+1}" },
        });
        values().expand_document(&mut document).expect("all placeholders exist");
        assert_eq!(
            document,
            json!({
                "environment": { "A": "#1729281097" },
                "body": { "expires_on": 1_729_281_098, "deep": [{ "x": 1_729_281_097, "y": "1729281097" }] },
                "expect": { "token": "127.0.0.1:41741", "expires_on": "${now+1}" },
            })
        );
    }
}
