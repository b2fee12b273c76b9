//! What is a case and what is none.

use super::scenario::*;
use super::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const MINIMAL: &str = r#"{"description":"A client does as it should.","environment":{},
    "steps":[{"request":{"audience":"a"},"exchanges":[],"expect":{"token":"t","expires_on":7}}]}"#;

#[test]
fn the_embedded_cases_are_well_formed() {
    if let Err(error) = embedded() {
        panic!("{error}");
    }
}

#[test]
fn a_case_that_departs_from_the_format_is_refused_with_its_place() {
    assert!(Case::parse("imds/minimal", MINIMAL).is_ok());
    let case =
        |rest: &str| format!(r#"{{"description":"A client does as it should.","environment":{{}},"steps":[],{rest}}}"#);
    let played = |step: &str| case(step).replace("\"steps\":[],", "");
    let step = |exchanges: &str, expect: &str| {
        let request = r#""request":{"audience":"a"}"#;
        played(&format!(
            r#""steps":[{{{request},"exchanges":[{exchanges}],"expect":{{{expect}}}}}]"#
        ))
    };
    let token = r#""token":"t","expires_on":7"#;
    let expect = |expect: &str| step("", expect);
    let exchange = |rest: &str| step(&format!(r#"{{"request":{{"path":"/"}}{rest}}}"#), token);
    let request = |request: &str| step(&format!(r#"{{"request":{{{request}}},"fault":"reset"}}"#), token);
    let file = |file: &str| case(&format!(r#""source":{{"name":null}},"files":[{{"path":"/p",{file}}}]"#));
    for good in [
        expect(token),
        exchange(r#","reply":{"body":null}"#),
        request(r#""method":"POST","path":"/","form":{"a":null}"#),
        file(r#""text":"""#),
    ] {
        assert!(Case::parse("imds/x", &good).is_ok(), "{good}");
    }
    for (text, expected) in [
        ("{\n\"descriptio\":\"d\"}".to_owned(), "unknown field `descriptio`"),
        ("{\n\"descriptio\":\"d\"}".to_owned(), "line 2"),
        (MINIMAL.replace("does as it should", ""), "`description` is no sentence"),
        (
            MINIMAL.replace("\"environment\":{},", ""),
            "missing field `environment`",
        ),
        (MINIMAL.replace("\"exchanges\":[],", ""), "missing field `exchanges`"),
        (
            MINIMAL.replace("\"audience\":\"a\"", "\"audience\":\"a\",\"timeout_ms\":0"),
            "steps[0].request: `timeout_ms`",
        ),
        (
            MINIMAL.replace("\"audience\":\"a\"", "\"audience\":\"a\",\"claims\":null"),
            "`claims` is null",
        ),
        (case(r#""secrets":[]"#), "neither `steps` nor `source`"),
        (case(r#""source":{}"#), "missing field `name`"),
        (case(r#""source":{"name":null},"arc_agent":false"#), "left out"),
        (case(r#""source":{"name":null,"endpoint":null}"#), "`endpoint` is null"),
        (
            case(r#""source":{"name":null},"secrets":["short"]"#),
            "the secret `short`",
        ),
        (
            case(r#""source":{"name":null},"not_in":{"nobody":"x"}"#),
            "unknown variant `nobody`",
        ),
        (played(r#""source":{"name":null}"#), "missing field `steps`"),
        (expect(""), "steps[0].expect: exactly one of `token` and `error`"),
        (expect(r#""token":"t""#), "`token` needs `expires_on`"),
        (
            expect(&format!(r#"{token},"http_status":400"#)),
            "`http_status` does not go with `token`",
        ),
        (
            expect(r#""error":"denied","stale":false"#),
            "`stale` does not go with `error`",
        ),
        (
            expect(r#""error":"denied","source":"imds""#),
            "`source` does not go with `error`",
        ),
        (
            expect(r#""error":"denied","http_status":null"#),
            "`http_status` is null",
        ),
        (expect(r#""error":"denied","http_status":99"#), "`http_status`: 99"),
        (expect(r#""error":["denied","refused"]"#), "no cause `refused`"),
        (expect(r#""token":"t","expires_on":"soon""#), "soon"),
        (
            expect(r#""token":"${nothing}","expires_on":7"#),
            "no placeholder `${nothing}`",
        ),
        (
            expect(r#""token":"${thumbprint}","expires_on":7"#),
            "needs `\"server\": \"https\"`",
        ),
        (step(r#"{"fault":"reset"}"#, token), "missing field `request`"),
        (
            exchange(""),
            "steps[0].exchanges[0]: exactly one of `reply` and `fault`",
        ),
        (
            exchange(r#","reply":{},"fault":"reset""#),
            "exactly one of `reply` and `fault`",
        ),
        (
            exchange(r#","reply":{"body":null,"text":""}"#),
            "reply: exactly one of `body`",
        ),
        (exchange(r#","reply":{"base64":"%"}"#), "`base64`"),
        (exchange(r#","reply":{"status":100}"#), "`status`: 100"),
        (exchange(r#","reply":{"status":600}"#), "`status`: 600"),
        (exchange(r#","reply":{"status":null}"#), "`status` is null"),
        (exchange(r#","reply":{"repeat":{"text":"x","times":1}}"#), "`repeat`"),
        (exchange(r#","fault":"boredom""#), "unknown variant `boredom`"),
        (
            step(
                r#"{"request":{"path":"/"},"fault":"reset","repeated":true},{"request":{"path":"/"},"fault":"reset"}"#,
                token,
            ),
            "only the last exchange",
        ),
        (request(""), "missing field `path`"),
        (request(r#""path":"/a?b""#), "`path`: `/a?b`"),
        (request(r#""path":"/","method":"PUT""#), "`PUT`"),
        (request(r#""path":"/","form":{}"#), "`form` goes with"),
        (request(r#""path":"/","more_form":true"#), "`more_form` needs"),
        (request(r#""path":"/","headers":{"Metadata":"true"}"#), "lower case"),
        (
            request(r#""path":"/","headers":{"metadata":null}"#),
            "invalid type: null",
        ),
        (file(r#""link":null"#), "`link` is null"),
        (file(r#""times":2"#), "files[0]: exactly one of `text`"),
        (file(r#""repeat":"x","times":0"#), "files[0]: `times`"),
        (file(r#""text":"key-a""#), "the secret `key-a`"),
    ] {
        let error = Case::parse("imds/x", &text).expect_err(&text).to_string();
        assert!(
            error.starts_with("imds/x.json: ") && error.contains(expected),
            "{error}: no {expected}"
        );
    }
}

/// The names that a type knows, from what it says of one that it does not.
fn known<T: serde::de::DeserializeOwned>(document: Value) -> BTreeSet<String> {
    let error = serde_json::from_value::<T>(document).err().expect("an unknown name");
    let message = error.to_string();
    let (_, known) = message
        .split_once("expected ")
        .expect("the message names what is known");
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn fields<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
    known::<T>(json!({ "?": 0 }))
}

#[test]
fn the_schema_and_the_parser_know_the_same_names() {
    let schema: Value =
        serde_json::from_str(include_str!("../../../../tests/conformance/case.schema.json")).expect("JSON");
    let at = |place: &str| {
        schema
            .pointer(place)
            .unwrap_or_else(|| panic!("no {place} in the schema"))
    };
    let properties = |place: &str| -> BTreeSet<String> {
        let properties = at(&format!("{place}/properties")).as_object().expect("an object");
        properties.keys().cloned().collect()
    };
    let names = |place: &str| -> BTreeSet<String> {
        let names = at(place).as_array().expect("a list").iter();
        names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
    };
    let both =
        |one: BTreeSet<String>, other: BTreeSet<String>| -> BTreeSet<String> { one.union(&other).cloned().collect() };
    let identities = (1..=3).map(|kind| properties(&format!("/$defs/request/properties/identity/oneOf/{kind}")));
    for (what, schema, parser) in [
        ("a case", properties(""), fields::<Scenario>()),
        ("source", properties("/properties/source"), fields::<ExpectedSource>()),
        (
            "not_in",
            properties("/properties/not_in"),
            known::<BTreeMap<Runner, String>>(json!({ "?": "" })),
        ),
        ("a file", properties("/$defs/file"), fields::<File>()),
        ("a step", properties("/$defs/step"), fields::<Step>()),
        ("request", properties("/$defs/request"), fields::<Request>()),
        ("an exchange", properties("/$defs/exchange"), fields::<Exchange>()),
        (
            "its request",
            properties("/$defs/expected"),
            fields::<ExpectedRequest>(),
        ),
        ("reply", properties("/$defs/reply"), fields::<Reply>()),
        (
            "repeat",
            properties("/$defs/reply/properties/repeat"),
            fields::<Repeat>(),
        ),
        (
            "expect",
            both(properties("/$defs/token"), properties("/$defs/failure")),
            fields::<Expectation>(),
        ),
        ("server", names("/properties/server/enum"), known::<Scheme>(json!("?"))),
        (
            "identity",
            identities.fold(names("/$defs/request/properties/identity/oneOf/0/enum"), both),
            known::<Identity>(json!("?")),
        ),
        (
            "fault",
            names("/$defs/exchange/properties/fault/enum"),
            known::<Fault>(json!("?")),
        ),
        (
            "a cause",
            names("/$defs/cause/enum"),
            CAUSES.iter().map(|&cause| cause.to_owned()).collect(),
        ),
    ] {
        assert!(!parser.is_empty(), "{what}");
        assert_eq!(schema, parser, "{what}");
    }
    // Each of its other lists of properties would be one that was not looked at.
    let lists = schema.to_string().matches("\"properties\":{").count();
    assert_eq!(lists, 17, "properties are listed in other places than before");
}

#[test]
fn null_is_told_from_absence() {
    let expectation: Expectation = serde_json::from_str(r#"{"client_id":null,"token":"t"}"#).expect("well-formed");
    assert_eq!((expectation.client_id, expectation.http_status), (Some(None), None));
    let reply: Reply = serde_json::from_str(r#"{"body":null}"#).expect("well-formed");
    assert_eq!((reply.body(), Reply::default().body()), (b"null".to_vec(), Vec::new()));
}

#[test]
fn a_pattern_is_a_part_of_the_name_or_all_of_it_with_asterisks() {
    let case = Case::parse("imds/client-id-selects", MINIMAL).expect("well-formed");
    for (pattern, expected) in [
        ("", true),
        ("imds/", true),
        ("client-id", true),
        ("imds/*", true),
        ("*selects", true),
        ("imds/*-id-*", true),
        ("*", true),
        ("client*", false),
        ("*client", false),
        ("object", false),
    ] {
        assert_eq!(case.is_named_like(pattern), expected, "{pattern}");
    }
}
