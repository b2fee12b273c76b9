//! `DEPENDENCIES.md` has each crate that a manifest names, and the rules that it speaks of are those of `deny.toml`.

use crate::{rows, section, text, workspace};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// The tables, and the members of which a crate has to be a normal dependency to stand there; the first that fits counts.
const SECTIONS: [(&str, &[&str]); 3] = [
    (
        "In the components",
        &["managed-identity-provider", "managed-identity-cache"],
    ),
    (
        "In the library, the command, the server and the module of Envoy",
        &[
            "managed-identity",
            "managed-identity-host",
            "managed-identity-serve",
            "managed-identity-envoy",
            "managed-identity-emulator",
            "managed-identity-conformance",
        ],
    ),
    (BUILD, &["managed-identity-guest-build", "managed-identity-release"]),
];

/// Where build dependencies of any member stand, too.
const BUILD: &str = "In what builds and releases them";

/// Where all the others stand.
const REST: &str = "In tests, benchmarks and examples only";

const WORKSPACES: &str = "Workspaces of their own";

/// What cargo knows of the workspace, as far as it has been downloaded for building it.
fn metadata() -> Value {
    let cargo = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO"))
            .current_dir(workspace(""))
            .args(arguments)
            .output()
            .unwrap();
        let failure = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo {arguments:?}: {failure}");
        String::from_utf8(output.stdout).unwrap()
    };
    let version = cargo(&["-vV"]);
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let json = cargo(&[
        "metadata",
        "--locked",
        "--offline",
        "--all-features",
        "--format-version",
        "1",
        "--filter-platform",
        host,
        "--filter-platform",
        "wasm32-unknown-unknown",
    ]);
    serde_json::from_str(&json).unwrap()
}

/// What a manifest says of a crate: who names it, and as what.
#[derive(Default)]
struct Use {
    by: BTreeSet<(String, String)>,
}

impl Use {
    fn section(&self) -> &'static str {
        let is_normal = |members: &[&str]| {
            self.by
                .iter()
                .any(|(member, kind)| kind == "normal" && members.contains(&member.as_str()))
        };
        let builds = self.by.iter().any(|(_, kind)| kind == "build");
        let mut sections = SECTIONS.into_iter();
        sections
            .find(|(section, members)| is_normal(members) || (*section == BUILD && builds))
            .map_or(REST, |(section, _)| section)
    }

    fn kinds(&self) -> String {
        let has = |kind: &&&str| self.by.iter().any(|(_, own)| own == **kind);
        let kinds: Vec<_> = ["normal", "build", "dev"].iter().filter(has).copied().collect();
        kinds.join(", ")
    }
}

#[test]
fn each_crate_that_a_manifest_names_has_a_row_that_is_true_and_there_are_no_others() {
    let metadata = metadata();
    let members = metadata["workspace_members"].as_array().unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    let mut uses: BTreeMap<&str, Use> = BTreeMap::new();
    for member in packages.iter().filter(|package| members.contains(&package["id"])) {
        let name = member["name"].as_str().unwrap();
        for dependency in member["dependencies"].as_array().unwrap() {
            if dependency["path"].is_null() {
                let kind = dependency["kind"].as_str().unwrap_or("normal");
                let named = uses.entry(dependency["name"].as_str().unwrap()).or_default();
                named.by.insert((name.to_owned(), kind.to_owned()));
            }
        }
    }
    let licence = |name: &str| {
        let licences: BTreeSet<_> = packages
            .iter()
            .filter(|package| package["name"] == name)
            .map(|package| package["license"].as_str().unwrap())
            .collect();
        Vec::from_iter(licences).join("; ")
    };
    let expected: BTreeSet<_> = uses
        .iter()
        .map(|(name, it)| format!("{}: | `{name}` | {} | {} |", it.section(), licence(name), it.kinds()))
        .collect();

    let document = text("DEPENDENCIES.md");
    let sections = SECTIONS.iter().map(|(section, _)| *section).chain([REST]);
    let found: BTreeSet<_> = sections
        .flat_map(|heading| {
            rows(section(&document, heading)).map(move |cells| format!("{heading}: | {} |", cells[..3].join(" | ")))
        })
        .collect();
    let missing: Vec<_> = expected.difference(&found).collect();
    let stale: Vec<_> = found.difference(&expected).collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "DEPENDENCIES.md lacks {missing:#?}, and has instead {stale:#?}"
    );
}

#[test]
fn each_row_says_what_a_crate_is_for_and_what_would_be_in_its_place() {
    let document = text("DEPENDENCIES.md");
    for heading in SECTIONS.iter().map(|(section, _)| *section).chain([REST]) {
        let rows: Vec<_> = rows(section(&document, heading)).collect();
        assert!(rows.len() > 3, "{heading}");
        for cells in &rows {
            assert_eq!(cells.len(), 5, "{cells:?}");
            assert!(cells[3..].iter().all(|cell| cell.len() > 5), "{cells:?}");
        }
        assert!(
            rows.is_sorted_by_key(|cells| cells[0].trim_matches('`')),
            "{heading} is in no order"
        );
    }
}

#[test]
fn each_workspace_of_its_own_has_a_row_with_its_crates() {
    let manifest = |path: &str| -> toml::Table { text(path).parse().unwrap() };
    let root = manifest("Cargo.toml");
    let expected: BTreeMap<_, _> = root["workspace"]["exclude"]
        .as_array()
        .unwrap()
        .iter()
        .map(|folder| {
            let folder = folder.as_str().unwrap();
            let own = manifest(&format!("{folder}/Cargo.toml"));
            let kinds = ["dependencies", "build-dependencies", "dev-dependencies"];
            let crates: BTreeSet<_> = kinds
                .iter()
                .filter_map(|kind| own.get(*kind)?.as_table())
                .flatten()
                .filter(|(_, dependency)| dependency.get("path").is_none())
                .map(|(name, _)| format!("`{name}`"))
                .collect();
            (format!("`{folder}`"), Vec::from_iter(crates).join(", "))
        })
        .collect();
    let document = text("DEPENDENCIES.md");
    let found: BTreeMap<_, _> = rows(section(&document, WORKSPACES))
        .map(|cells| (cells[0].to_owned(), cells[1].to_owned()))
        .collect();
    assert_eq!(found, expected, "what DEPENDENCIES.md has, and what it should have");
}

#[test]
fn the_rules_are_the_strict_ones_and_each_exception_has_its_reason() {
    let rules: toml::Table = text("deny.toml").parse().unwrap();
    for (table, key, value) in [
        ("advisories", "yanked", "deny"),
        ("advisories", "unmaintained", "all"),
        ("advisories", "unsound", "all"),
        ("bans", "multiple-versions", "deny"),
        ("bans", "wildcards", "deny"),
        ("sources", "unknown-registry", "deny"),
        ("sources", "unknown-git", "deny"),
    ] {
        assert_eq!(rules[table][key].as_str(), Some(value), "{table}.{key}");
    }
    for (table, key) in [("advisories", "ignore"), ("bans", "skip"), ("bans", "skip-tree")] {
        for exception in rules[table].get(key).into_iter().flat_map(|it| it.as_array().unwrap()) {
            let reason = exception.get("reason").and_then(toml::Value::as_str);
            assert!(reason.is_some_and(|reason| reason.len() > 20), "{key}: {exception:?}");
        }
    }
    let copyleft = ["GPL", "MPL", "EUPL", "CDDL", "EPL", "OSL", "SSPL", "BUSL"];
    for licence in rules["licenses"]["allow"].as_array().unwrap() {
        let licence = licence.as_str().unwrap();
        assert!(!copyleft.iter().any(|it| licence.contains(it)), "{licence}");
    }
}

#[test]
fn the_rules_are_checked_by_what_is_said_to_check_them() {
    let program = text("x");
    let function = |name: &str| {
        let (_, rest) = program.split_once(&format!("\n{name}() {{\n")).unwrap();
        rest.split("\n}\n").next().unwrap()
    };
    let lint = function("lint");
    assert!(
        lint.contains("\"$deny\" --locked check") && lint.contains(" bans licenses sources\n"),
        "{lint}"
    );
    assert!(function("audit").contains("\"$deny\" --locked check --disable-fetch advisories\n"));
    assert!(text(".ci/run").contains("\n./x lint\n"));
    assert!(text("RELEASING.md").contains("`./x audit`"));
}
