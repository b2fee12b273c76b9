//! What was rejected once is handed out by nobody again.

use super::*;

#[test]
fn a_rejected_token_is_never_handed_out_again() {
    let world = World::with_token();
    // It is gone even though nothing takes its place.
    world.will(DOWN);
    assert_eq!(
        world.ask(rejecting("one")).map(drop),
        Err(TestError::Platform("down", None))
    );
    assert_eq!(
        world
            .asked
            .borrow()
            .last()
            .and_then(|asked| asked.rejected.clone())
            .as_deref(),
        Some("one")
    );
    // The platform still returns it to an instance that knows nothing: it is told, and asked again.
    world.will(hour("one"));
    world.will(hour("two"));
    assert_eq!(world.token(), ok("two"));
    let asked: Vec<_> = world
        .asked
        .borrow()
        .iter()
        .skip(2)
        .map(|asked| asked.rejected.clone())
        .collect();
    assert_eq!(asked, [None, Some("one".to_owned())]);
    // Another instance that was slow brings the old one back, and gets the new one for it.
    assert_eq!(
        world
            .ask(rejecting("one"))
            .map(|token| token.secret.expose().to_owned()),
        Ok("two".to_owned())
    );
    assert_eq!(world.requests(), 4);
    // And after the new one it is still rejected.
    world.pass_seconds(1800);
    world.will(hour("one"));
    world.will(Answer::Failure("rejected", None));
    assert_eq!(world.token(), stale("two"));
}

/// Instances write without locks, so one that has asked before the rejection writes after it.
#[test]
fn a_token_that_is_rejected_while_others_ask_stays_rejected() {
    let reject = |world: &Rc<World>| {
        world.will(DOWN);
        assert!(world.ask(rejecting("one")).is_err());
    };
    // The first token of all: the platform gives one instance what another has had rejected meanwhile.
    let world = World::new();
    let reject_first = move |world: &Rc<World>| {
        reject(world);
        world.will(hour("two"));
    };
    world.will(Answer::Meanwhile(Box::new(reject_first), Box::new(hour("one"))));
    assert_eq!(world.token(), ok("two"));
    // As if the slow one had not looked: what it puts back is not handed out.
    world.edit(|entry| entry.keep(access_token("one", START + 3600)));
    world.will(hour("three"));
    assert_eq!(world.token(), ok("three"));

    // A renewal that fails: the old token is not handed out instead, now or later.
    let world = World::with_token();
    world.pass_seconds(1800);
    world.will(Answer::Meanwhile(Box::new(reject), Box::new(DOWN)));
    assert_eq!(world.token(), down());
    world.will(hour("two"));
    assert_eq!(world.token(), ok("two"));
}

#[test]
fn a_token_is_rejected_by_whatever_name_its_identity_was_asked_for() {
    let world = World::new();
    let by_id = || TokenRequest {
        identity: Identity::ClientId(CLIENT_ID.to_owned()),
        ..request(VAULT)
    };
    for asking in [request(VAULT), by_id(), request(STORAGE)] {
        world.will(hour("one"));
        assert!(world.ask(asking).is_ok());
    }
    world.will(hour("two"));
    assert!(world.ask(rejecting("one")).is_ok());
    for asking in [by_id(), request(STORAGE)] {
        world.will(hour("three"));
        let token = world.ask(asking).map(|token| token.secret.expose().to_owned());
        assert_eq!(token, Ok("three".to_owned()));
    }
}

#[test]
fn what_somebody_without_the_key_writes_rejects_no_token() {
    let world = World::new();
    world.will(hour("one"));
    world.will(hour("two"));
    assert_eq!(world.token(), ok("one"));
    assert!(world.ask(rejecting("one")).is_ok());
    let rejections: Vec<_> = world
        .values
        .borrow()
        .keys()
        .filter(|name| name.contains(".rejected."))
        .cloned()
        .collect();
    assert_eq!(rejections.len(), 1);
    for name in rejections {
        world.values.borrow_mut().insert(name, b"x".to_vec());
    }
    world.edit(|entry| entry.keep(access_token("one", START + 3600)));
    assert_eq!(world.token(), ok("one"));
}

#[test]
fn a_provider_that_insists_on_a_rejected_token_is_not_believed() {
    let world = World::new();
    world.will(hour("unbelievable"));
    world.will(hour("unbelievable"));
    assert!(matches!(
        world.ask(rejecting("unbelievable")),
        Err(TestError::TokenRejected(message)) if !message.contains("unbelievable")
    ));
    assert_eq!(world.requests(), 2);
}

#[test]
fn no_rejected_token_is_forgotten() {
    let world = World::new();
    for number in 0..20 {
        world.will(hour(&format!("token {}", number + 1)));
        assert!(world.ask(rejecting(&format!("token {number}"))).is_ok());
    }
    for number in 0..20 {
        world.edit(|entry| entry.keep(access_token(&format!("token {number}"), START + 3600)));
        world.will(hour("another"));
        assert_eq!(world.token(), ok("another"), "{number}");
    }
}

#[test]
fn an_empty_rejected_token_is_none() {
    let world = World::with_token();
    assert_eq!(
        world.ask(rejecting("")).map(|token| token.secret.expose().to_owned()),
        Ok("one".to_owned())
    );
    assert_eq!(world.requests(), 1);
}

#[test]
fn a_store_that_takes_nothing_more_keeps_no_rejected_token() {
    let world = World::with_token();
    world.fault.set(Faulty::Set);
    // A lease that cannot be written costs nothing.
    world.pass_seconds(1800);
    world.will(DOWN);
    assert_eq!((world.token(), world.values.borrow().len()), (stale("one"), 1));
    world.will(DOWN);
    assert!(world.ask(rejecting("one")).is_err());
    assert!(world.values.borrow().is_empty());
}

#[test]
fn whoever_has_a_token_rejected_does_not_get_it_even_where_the_store_takes_no_note() {
    let world = World::with_token();
    world.fault.set(Faulty::Change);
    world.will(hour("two"));
    let token = world
        .ask(rejecting("one"))
        .map(|token| token.secret.expose().to_owned());
    assert_eq!(token, Ok("two".to_owned()));
    world.will(DOWN);
    assert!(world.ask(rejecting("one")).is_err());
}
