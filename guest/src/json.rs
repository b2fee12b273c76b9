//! JSON text as a tree.
//!
//! `serde_json` has one, too. It keeps objects in a map whose code is larger than the rest of the JSON reader together, and
//! the few objects that are read here have some dozen fields.

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// `null`.
    Null,
    /// `true` or `false`, which no field that is read here has.
    Bool,
    /// A number without sign, fraction or exponent.
    Whole(u64),
    /// Any other number.
    Number(f64),
    /// A string.
    Text(String),
    /// An array.
    List(Vec<Json>),
    /// An object.
    Object(Object),
}

/// The fields of an object, in their order.
pub type Object = Vec<(String, Json)>;

impl Json {
    /// The text of a string.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The fields of an object.
    #[must_use]
    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }
}

/// A field by its name. Of several the last counts, as in most readers of JSON.
#[must_use]
pub fn field<'a>(object: &'a Object, name: &str) -> Option<&'a Json> {
    object
        .iter()
        .rev()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value)
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Bool)
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Whole(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(u64::try_from(number).map_or(Json::Number(number as f64), Json::Whole))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        Ok(Json::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json, A::Error> {
        let mut object = Vec::new();
        while let Some(entry) = fields.next_entry()? {
            object.push(entry);
        }
        Ok(Json::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_value_is_read() {
        let json = r#"{"a":[null,true,1,-1,1.5,"x"],"b":{},"a":2,"c":18446744073709551616}"#;
        let Ok(Json::Object(object)) = serde_json::from_str(json) else {
            panic!("an object");
        };
        let list = vec![
            Json::Null,
            Json::Bool,
            Json::Whole(1),
            Json::Number(-1.0),
            Json::Number(1.5),
            Json::Text("x".to_owned()),
        ];
        assert_eq!(object[0], ("a".to_owned(), Json::List(list)));
        assert_eq!(field(&object, "a"), Some(&Json::Whole(2)));
        assert_eq!(field(&object, "b"), Some(&Json::Object(Vec::new())));
        assert!(matches!(field(&object, "c"), Some(Json::Number(_))));
        assert_eq!(field(&object, "d"), None);
        for bad in ["", "{", "[1,]", "nul", "1 2"] {
            assert!(serde_json::from_str::<Json>(bad).is_err(), "{bad}");
        }
    }
}
