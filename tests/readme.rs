//! The README shows what is there.

const README: &str = include_str!("../README.md");

#[test]
fn the_guest_in_the_readme_is_the_one_in_the_examples() {
    let shown = README
        .split("```Rust\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the README shows a guest");
    assert!(shown.lines().count() > 10);
    assert!(
        include_str!("../examples/guests/rust/src/lib.rs").contains(shown),
        "the guest in the README differs from examples/guests/rust"
    );
}

#[test]
fn the_policy_in_the_readme_is_one() {
    use managed_identity_host::grants::Policy;
    let shown = README
        .split("```toml\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next())
        .expect("the README shows a policy");
    let policy = Policy::from_toml(shown).expect("it can be used");
    assert_eq!(policy.callers().count(), 2);
}

#[test]
fn the_configuration_of_a_server_in_the_readme_is_one() {
    let shown = README
        .split("```toml\n")
        .nth(2)
        .and_then(|rest| rest.split("```").next())
        .expect("the README shows a configuration");
    let config = managed_identity_serve::Config::from_toml(shown).expect("it can be used");
    assert_eq!((config.listeners.len(), config.callers.len()), (2, 1));
}

#[test]
fn the_sizes_in_the_readme_are_those_of_the_components() {
    use managed_identity_host::{EMBEDDED_0_2, EMBEDDED_0_3};
    for (version, component) in [("0.2", EMBEDDED_0_2), ("0.3", EMBEDDED_0_3)] {
        let row = README
            .lines()
            .find(|line| line.starts_with(&format!("| provider {version} |")))
            .expect("the README has a row for each component");
        let shown: usize = row
            .split_whitespace()
            .zip(row.split_whitespace().skip(1))
            .find_map(|(number, unit)| (unit == "KB").then(|| number.parse().ok()).flatten())
            .expect("the row has a size in KB");
        let actual = component.len() / 1000;
        // Compilers differ by a little, and a README need not.
        assert!(
            shown.abs_diff(actual) <= 10,
            "the README says {shown} KB, the component has {actual} KB"
        );
    }
}
