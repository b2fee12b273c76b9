//! The desk without a component: who is told what, and when.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use super::*;
use managed_identity_provider::secret::Secret;
use oneshot::Receiver;

type TokenAnswer = Receiver<Result<Arc<AccessToken>, Error>>;

fn ask(desk: &mut Desk, request: TokenRequest) -> TokenAnswer {
    let (reply, answer) = oneshot::channel();
    desk.accept(Call::new(Ask::Token(Box::new(request), reply), None));
    answer
}

fn request(audience: &str, seconds: u64) -> TokenRequest {
    TokenRequest::new(audience).with_timeout(Duration::from_secs(seconds))
}

fn token() -> Answer {
    Answer::Token(Ok(AccessToken {
        token: Secret::from("t"),
        token_type: "Bearer".to_owned(),
        audience: "a".to_owned(),
        expires_on: u64::MAX,
        refresh_on: 1,
        client_id: None,
        source: "imds".to_owned(),
        stale: false,
    }))
}

fn too_late() -> Answer {
    Answer::Token(Err(Error::new(Cause::DeadlineExceeded, "The guest's own words")))
}

fn cause(answer: &mut TokenAnswer) -> Cause {
    answer.try_recv().unwrap().unwrap_err().cause
}

fn is_empty(desk: &Desk) -> bool {
    desk.callers.is_empty() && desk.matters.is_empty() && desk.timers.is_empty() && desk.joinable.is_empty()
}

#[test]
fn callers_with_one_question_share_one_call_and_its_answer() {
    let mut desk = Desk::default();
    let mut answers: Vec<_> = (0..3).map(|_| ask(&mut desk, request("a", 5))).collect();
    let (number, _) = desk.take_waiting().unwrap();
    answers.push(ask(&mut desk, request("a", 5)));
    assert!(desk.take_waiting().is_none());
    desk.answer(number, token());
    for answer in &mut answers {
        assert!(answer.try_recv().unwrap().is_ok());
    }
    assert!(is_empty(&desk));
}

#[test]
fn what_differs_is_asked_for_separately() {
    let mut desk = Desk::default();
    let _answers = [
        ask(&mut desk, request("a", 5)),
        ask(&mut desk, request("b", 5)),
        ask(&mut desk, request("a", 5).with_identity(Identity::SystemAssigned)),
        ask(&mut desk, request("a", 5).with_claims("{}")),
        ask(&mut desk, request("a", 5).with_rejected_token(Secret::from("t"))),
        ask(&mut desk, request("a", 5).with_rejected_token(Secret::from("t"))),
    ];
    let questions = std::iter::from_fn(|| desk.take_waiting()).count();
    assert_eq!(questions, 6);
}

#[test]
fn who_is_more_patient_than_those_before_asks_again() {
    let mut desk = Desk::default();
    let mut first = ask(&mut desk, request("a", 5));
    let (number, question) = desk.take_waiting().unwrap();
    assert!(matches!(question, Question::Token(_, time_left) if time_left <= Duration::from_secs(5)));
    let mut patient = ask(&mut desk, request("a", 50));
    desk.answer(number, too_late());
    assert_eq!(cause(&mut first), Cause::DeadlineExceeded);
    let (number, question) = desk.take_waiting().unwrap();
    assert!(matches!(question, Question::Token(_, time_left) if time_left > Duration::from_secs(40)));
    let mut joined = ask(&mut desk, request("a", 50));
    desk.answer(number, token());
    assert!(patient.try_recv().unwrap().is_ok() && joined.try_recv().unwrap().is_ok());
    assert!(is_empty(&desk));
}

#[test]
fn who_is_less_patient_leaves_without_the_others() {
    let mut desk = Desk::default();
    let mut patient = ask(&mut desk, request("a", 50));
    let (number, _) = desk.take_waiting().unwrap();
    let mut impatient = ask(&mut desk, request("a", 0));
    assert!(!desk.turn_away_overdue());
    assert_eq!(cause(&mut impatient), Cause::DeadlineExceeded);
    desk.answer(number, token());
    assert!(patient.try_recv().unwrap().is_ok());
    assert!(is_empty(&desk));
}

#[test]
fn who_asks_after_a_forget_joins_nobody_who_asked_before_it() {
    let mut desk = Desk::default();
    let _before = ask(&mut desk, request("a", 5));
    assert!(desk.take_waiting().is_some());
    let (reply, _forgotten) = oneshot::channel();
    desk.accept(Call::new(Ask::Forget(None, reply), None));
    let _after = ask(&mut desk, request("a", 5));
    assert!(matches!(desk.take_waiting(), Some((_, Question::Forget(None)))));
    assert!(matches!(desk.take_waiting(), Some((_, Question::Token(..)))));
}

#[test]
fn who_asks_after_a_doubt_joins_nobody_who_asked_before_it_without_one() {
    let doubt = || request("a/.default", 5).with_claims("{}");
    let mut desk = Desk::default();
    let _answers = [
        ask(&mut desk, request("a", 5)),
        ask(&mut desk, request("b", 5)),
        ask(&mut desk, doubt()),
        ask(&mut desk, doubt()),
        ask(&mut desk, request("a", 5)),
        ask(&mut desk, request("b", 5)),
    ];
    let questions = std::iter::from_fn(|| desk.take_waiting()).count();
    assert_eq!(questions, 4, "a, b, the doubt, and a again");
}

#[test]
fn a_call_that_never_gets_its_turn_is_told_so_and_not_made() {
    let mut desk = Desk::default();
    let mut late = ask(&mut desk, request("a", 0));
    assert!(!desk.turn_away_overdue());
    let error = late.try_recv().unwrap().unwrap_err();
    assert!(
        error.cause == Cause::DeadlineExceeded && error.message.contains("its turn"),
        "{error}"
    );
    assert!(desk.take_waiting().is_none() && is_empty(&desk));
}

#[test]
fn what_a_failed_instance_was_asked_is_asked_again_once() {
    let mut desk = Desk::default();
    let mut running = [ask(&mut desk, request("a", 5)), ask(&mut desk, request("b", 5))];
    let mut late = ask(&mut desk, request("a", 0));
    while desk.take_waiting().is_some() {}
    let mut waiting = ask(&mut desk, request("c", 5));
    desk.instance_failed("it trapped");
    assert_eq!(cause(&mut late), Cause::Internal);
    let asked: Vec<_> = std::iter::from_fn(|| desk.take_waiting()).collect();
    let audience = |(_, question): &(u64, Question)| match question {
        Question::Token(request, _) => request.audience.clone(),
        _ => String::new(),
    };
    assert_eq!(asked.iter().map(audience).collect::<Vec<_>>(), ["c", "a", "b"]);
    desk.answer(asked[1].0, token());
    assert!(running[0].try_recv().unwrap().is_ok());
    // Who comes now joins a question that has been interrupted.
    let mut joined = ask(&mut desk, request("b", 5));
    desk.instance_failed("it trapped again");
    let error = running[1].try_recv().unwrap().unwrap_err();
    assert!(
        error.cause == Cause::Internal && error.message.contains("it trapped again"),
        "{error}"
    );
    assert_eq!(cause(&mut joined), Cause::Internal);
    let (number, question) = desk.take_waiting().unwrap();
    assert_eq!(audience(&(number, question)), "c");
    desk.answer(number, token());
    assert!(waiting.try_recv().unwrap().is_ok() && is_empty(&desk));
}

#[test]
fn what_waits_for_instances_that_do_not_start_is_given_up_at_the_second() {
    let mut desk = Desk::default();
    let mut first = ask(&mut desk, request("a", 5));
    desk.instance_failed("no memory");
    let mut second = ask(&mut desk, request("b", 5));
    let (reply, mut forgotten) = oneshot::channel();
    desk.accept(Call::new(Ask::Forget(None, reply), None));
    assert!(first.try_recv().is_err());
    desk.instance_failed("no memory");
    assert_eq!(cause(&mut first), Cause::Internal);
    assert_eq!(forgotten.try_recv().unwrap(), Ok(()));
    assert!(second.try_recv().is_err());
    assert_eq!(desk.waiting.len(), 1);
    let (number, _) = desk.take_waiting().unwrap();
    desk.answer(number, token());
    assert!(second.try_recv().unwrap().is_ok() && is_empty(&desk));
}

#[test]
fn tokens_that_nobody_may_be_given_are_errors() {
    let mut desk = Desk::default();
    let plain = request("a", 5);
    let rejecting = request("a", 5).with_rejected_token(Secret::from("t"));
    for (request, text, expires_on, expected) in [
        (&plain, "", u64::MAX, Cause::MalformedReply),
        (&plain, "t", 0, Cause::MalformedReply),
        (&plain, "t", unix_time(), Cause::MalformedReply),
        (&rejecting, "t", u64::MAX, Cause::TokenRejected),
    ] {
        let mut answer = ask(&mut desk, request.clone());
        let (number, _) = desk.take_waiting().unwrap();
        let Answer::Token(Ok(mut token)) = token() else {
            unreachable!()
        };
        (token.token, token.expires_on) = (Secret::from(text), expires_on);
        desk.answer(number, Answer::Token(Ok(token)));
        assert_eq!(cause(&mut answer), expected, "{text} {expires_on}");
        assert!(desk.hits.held(&plain, 0).is_none());
    }
}

#[test]
fn a_failed_instance_has_forgotten_everything() {
    let mut desk = Desk::default();
    let (reply, mut forgotten) = oneshot::channel();
    desk.accept(Call::new(Ask::Forget(None, reply), None));
    assert!(desk.take_waiting().is_some());
    desk.instance_failed("it trapped");
    assert_eq!(forgotten.try_recv().unwrap(), Ok(()));
    assert!(is_empty(&desk));
}

/// A desk without an instance that holds a token for `a`.
fn holding() -> Desk {
    let hits = Arc::new(Hits::default());
    let Answer::Token(Ok(token)) = token() else {
        unreachable!()
    };
    hits.keep(&TokenRequest::new("a"), &Arc::new(token), hits.generation(), 0);
    Desk::new(hits)
}

#[test]
fn whose_token_is_held_waits_for_no_instance() {
    let mut desk = holding();
    let mut answer = ask(&mut desk, request("a", 5));
    assert!(answer.try_recv().unwrap().unwrap().stale);
    assert!(is_empty(&desk) && desk.take_waiting().is_none());
    let mut others = [
        ask(&mut desk, request("b", 5)),
        ask(&mut desk, request("a", 5).with_claims("{}")),
        ask(&mut desk, request("a", 5).with_rejected_token(Secret::from("u"))),
    ];
    assert!(others.iter_mut().all(|answer| answer.try_recv().is_err()));
}

#[test]
fn whose_token_is_held_gets_it_when_the_instance_fails() {
    let mut desk = holding();
    desk.is_served = true;
    let mut running = ask(&mut desk, request("a", 5));
    assert!(desk.take_waiting().is_some());
    let mut waiting = ask(&mut desk, request("a", 6));
    assert!(running.try_recv().is_err() && waiting.try_recv().is_err());
    desk.instance_failed("it trapped");
    for answer in [&mut running, &mut waiting] {
        assert!(answer.try_recv().unwrap().unwrap().stale);
    }
    assert!(is_empty(&desk));
}

#[test]
fn an_answer_is_kept_for_the_next_and_that_to_a_doubt_is_not() {
    for (doubt, kept) in [(false, true), (true, false)] {
        let hits = Arc::new(Hits::default());
        let mut desk = Desk::new(Arc::clone(&hits));
        let _answer = ask(&mut desk, request("a", 5));
        let (number, _) = desk.take_waiting().unwrap();
        if doubt {
            let (reply, _) = oneshot::channel();
            desk.accept(Call::new(Ask::Forget(None, reply), Some(hits.forgotten(None))));
        }
        let Answer::Token(Ok(mut token)) = token() else {
            unreachable!()
        };
        token.expires_on = u64::MAX;
        desk.answer(number, Answer::Token(Ok(token)));
        assert_eq!(hits.held(&request("a", 5), 0).is_some(), kept);
    }
}

#[test]
fn who_leaves_is_asked_for_no_longer_and_leaves_nothing_behind() {
    // The steps after which the first of two callers leaves, and whether the other one is still there.
    for (leaves_after, alone) in [
        ("accepted", true),
        ("accepted", false),
        ("asked", true),
        ("asked", false),
        ("interrupted", true),
        ("interrupted", false),
        ("answered", true),
        ("answered", false),
    ] {
        let hits = Arc::new(Hits::default());
        let mut desk = Desk::new(Arc::clone(&hits));
        let doubt = request("a", 5).with_claims("{}");
        let mut answers: Vec<_> = (0..if alone { 1 } else { 2 })
            .map(|_| {
                let (reply, answer) = oneshot::channel();
                let call = Call::new(Ask::Token(Box::new(doubt.clone()), reply), hits.challenged(&doubt));
                desk.accept(call);
                answer
            })
            .collect();
        let mut asked = None;
        for step in ["accepted", "asked", "interrupted", "answered"] {
            match step {
                "asked" => asked = desk.take_waiting(),
                "interrupted" => {
                    desk.instance_failed("it trapped");
                    asked = desk.take_waiting();
                }
                "answered" => {
                    if let Some((number, _)) = &asked {
                        desk.answer(*number, token());
                    }
                }
                _ => {}
            }
            if step == leaves_after {
                answers.remove(0);
            }
        }
        if alone && matches!(leaves_after, "accepted" | "asked") {
            assert!(asked.is_none(), "{leaves_after}: nobody waits for it");
        }
        for answer in &mut answers {
            assert!(answer.try_recv().unwrap().is_ok(), "{leaves_after}");
        }
        assert!(
            is_empty(&desk) && desk.waiting.is_empty(),
            "{leaves_after}, alone: {alone}"
        );
        // And nothing keeps tokens from being held.
        let Answer::Token(Ok(token)) = token() else {
            unreachable!()
        };
        hits.keep(&request("a", 5), &Arc::new(token), hits.generation(), 0);
        assert!(hits.held(&request("a", 5), 0).is_some());
    }
}

#[test]
fn a_desk_is_deserted_when_everybody_has_an_answer_or_has_left() {
    use futures_util::FutureExt as _;
    let desk = RefCell::new(Desk::default());
    let deserted = || Desk::deserted(&desk).now_or_never().is_some();
    assert!(deserted());
    let answered = ask(&mut desk.borrow_mut(), request("a", 5));
    let left = ask(&mut desk.borrow_mut(), request("b", 5));
    let (number, _) = desk.borrow_mut().take_waiting().unwrap();
    assert!(!deserted());
    desk.borrow_mut().answer(number, token());
    assert!(!deserted());
    drop(left);
    assert!(deserted());
    drop(answered);
}
