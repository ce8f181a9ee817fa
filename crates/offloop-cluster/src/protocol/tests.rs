//! Tests of the rules that the model leaves out: the terms of a job, and times.

use std::time::Duration;

use super::*;
use crate::Ulid;
use crate::records::{End, Job, Outcome};

const ME: Ulid = Ulid::from_bits(1);
const OTHER: Ulid = Ulid::from_bits(2);

fn terms() -> Terms {
    Terms {
        retry: 0,
        backoff: Duration::from_millis(10),
        on_failure: false,
        exclusive: false,
        is_fresh: false,
        has_task: true,
        is_late: false,
        is_replay: false,
        cancel_if_lost: false,
        age: Duration::ZERO,
    }
}

/// Returns what a worker does when it has read this state, of this age.
fn on_reading(terms: Terms, stored: Option<State>, age: Duration) -> (Delivery, Vec<DeliveryAction>) {
    let settings = Settings::default();
    let mut delivery = Delivery::new(ME, terms);
    let actions = delivery.on(&settings, DeliveryEvent::Begin);
    assert_eq!(actions.last(), Some(&DeliveryAction::Read));
    let stored = stored.map(|state| (Stored { revision: 7, state }, age));
    let actions = delivery.on(&settings, DeliveryEvent::Read(Some(stored)));
    (delivery, actions)
}

/// Returns the outcome of an end that is written in place of a revision.
fn written_end(actions: &[DeliveryAction]) -> Option<(Revision, Outcome)> {
    actions.iter().find_map(|action| match action {
        DeliveryAction::Write { expected, state: State::End(end) } => Some((*expected, end.outcome)),
        _ => None,
    })
}

fn given_back(actions: &[DeliveryAction]) -> Option<Duration> {
    actions.iter().find_map(|action| match action {
        DeliveryAction::Nak(delay) => Some(*delay),
        _ => None,
    })
}

#[test]
fn a_task_that_is_missing_waits_for_the_rollout_and_then_ends_the_job() {
    let young = Terms { has_task: false, age: Duration::from_secs(59), ..terms() };
    let (_, actions) = on_reading(young, None, Duration::ZERO);
    assert_eq!(given_back(&actions), Some(Duration::from_secs(1)));
    let old = Terms { has_task: false, age: Duration::from_secs(60), ..terms() };
    let (mut delivery, actions) = on_reading(old, None, Duration::ZERO);
    assert_eq!(actions, [DeliveryAction::Bury(Outcome::NoSuchTask)]);
    let actions = delivery.on(&Settings::default(), DeliveryEvent::Buried(true));
    assert_eq!(written_end(&actions), Some((0, Outcome::NoSuchTask)));
}

#[test]
fn a_job_older_than_what_is_remembered_is_not_run() {
    let terms = Terms { age: Duration::from_secs(24 * 60 * 60 + 1), ..terms() };
    let (mut delivery, actions) = on_reading(terms, None, Duration::ZERO);
    assert_eq!(actions, [DeliveryAction::Bury(Outcome::Expired)]);
    // Without the copy there is no end.
    let actions = delivery.on(&Settings::default(), DeliveryEvent::Buried(false));
    assert_eq!(written_end(&actions), None);
    let actions = delivery.on(&Settings::default(), DeliveryEvent::Fired(DeliveryTimer::Pause));
    assert_eq!(actions, [DeliveryAction::Bury(Outcome::Expired)]);
    let actions = delivery.on(&Settings::default(), DeliveryEvent::Buried(true));
    assert_eq!(written_end(&actions), Some((0, Outcome::Expired)));
}

#[test]
fn a_job_that_has_waited_too_long_is_not_started() {
    let late = Terms { is_late: true, ..terms() };
    let (_, actions) = on_reading(late.clone(), Some(State::Queued { by: OTHER }), Duration::ZERO);
    assert_eq!(written_end(&actions), Some((7, Outcome::QueueTimeout)));
    // The limit is for the first start.
    let release = State::Release { by: OTHER, attempt: 1, delay: Duration::ZERO };
    let (_, actions) = on_reading(Terms { retry: 1, ..late }, Some(release), Duration::ZERO);
    assert_eq!(actions, [DeliveryAction::Write { expected: 7, state: State::Claim { by: ME, attempt: 2 } }]);
}

#[test]
fn a_released_job_waits_for_its_pause() {
    let release = |delay| Some(State::Release { by: OTHER, attempt: 1, delay: Duration::from_secs(delay) });
    let retried = || Terms { retry: 1, ..terms() };
    let (_, actions) = on_reading(retried(), release(30), Duration::from_secs(12));
    assert_eq!(given_back(&actions), Some(Duration::from_secs(18)));
    let (_, actions) = on_reading(retried(), release(30), Duration::from_secs(30));
    assert_eq!(given_back(&actions), None);
}

#[test]
fn a_failure_leads_to_another_start_only_if_asked_for() {
    let settings = Settings::default();
    for on_failure in [false, true] {
        let (mut delivery, _) = on_reading(Terms { retry: 1, on_failure, ..terms() }, None, Duration::ZERO);
        let actions = delivery.on(&settings, DeliveryEvent::Written(Written::Stored(8)));
        assert_eq!(actions.last(), Some(&DeliveryAction::Start { attempt: 1 }));
        let actions = delivery.on(&settings, DeliveryEvent::Ended(Verdict::Failed(vec![1])));
        if on_failure {
            let state = State::Release { by: ME, attempt: 1, delay: Duration::from_millis(10) };
            assert_eq!(actions.last(), Some(&DeliveryAction::Write { expected: 8, state }));
            let actions = delivery.on(&settings, DeliveryEvent::Written(Written::Stored(9)));
            assert_eq!(given_back(&actions), Some(Duration::from_millis(10)));
        } else {
            assert_eq!(written_end(&actions), Some((8, Outcome::Failed)));
        }
    }
}

#[test]
fn silence_before_a_lost_connection_does_not_count() {
    let settings = Settings::default();
    let claim = State::Claim { by: OTHER, attempt: 1 };
    let (mut delivery, actions) = on_reading(terms(), Some(claim), Duration::ZERO);
    let silence = DeliveryAction::Arm(DeliveryTimer::Silence, settings.lease);
    assert!(actions.contains(&silence) && actions.contains(&DeliveryAction::FreeSlot));
    assert_eq!(delivery.on(&settings, DeliveryEvent::Reconnected), [silence]);
}

#[test]
fn a_replayed_message_is_not_run() {
    let settings = Settings::default();
    let hour = Duration::from_secs(60 * 60);
    let terms = |since| Terms::new(&Job::default(), true, false, Duration::ZERO, since, &settings);
    // The clocks of two machines may differ by an hour.
    let (_, actions) = on_reading(terms(settings.remember + hour), None, Duration::ZERO);
    assert!(matches!(actions[..], [DeliveryAction::Write { expected: 0, state: State::Claim { .. } }]));
    let late = settings.remember + hour + Duration::from_secs(1);
    let (_, actions) = on_reading(terms(late), None, Duration::ZERO);
    assert_eq!(actions, [DeliveryAction::Bury(Outcome::Expired)]);
}

#[test]
fn a_fresh_job_is_claimed_unread_and_read_if_that_is_refused() {
    let settings = Settings::default();
    let job = Job::default();
    let terms = |is_first| Terms::new(&job, true, is_first, Duration::ZERO, Duration::ZERO, &settings);
    let begun = |terms: Terms| {
        let mut delivery = Delivery::new(ME, terms);
        let action = delivery.on(&settings, DeliveryEvent::Begin).pop();
        (delivery, action.expect("a request"))
    };
    assert_eq!(begun(terms(false)).1, DeliveryAction::Read);
    let (mut delivery, action) = begun(terms(true));
    let claim = State::Claim { by: ME, attempt: 1 };
    assert_eq!(action, DeliveryAction::Write { expected: 0, state: claim });
    // Another delivery of the message has led to an end meanwhile, and the server has forgotten it.
    let actions = delivery.on(&settings, DeliveryEvent::Written(Written::Refused));
    assert_eq!(actions, [DeliveryAction::Read]);
    let end = End { by: OTHER, attempt: 1, outcome: Outcome::Returned, body: Vec::new() };
    let stored = Stored { revision: 7, state: State::End(Box::new(end)) };
    let actions = delivery.on(&settings, DeliveryEvent::Read(Some(Some((stored, Duration::ZERO)))));
    assert!(actions.contains(&DeliveryAction::Ack), "{actions:?}");
}

#[test]
fn what_leads_to_a_dead_letter_is_not_decided_unread() {
    let (settings, hour) = (Settings::default(), Duration::from_secs(60 * 60));
    let old = settings.remember + hour * 2;
    let (plain, mut keyed) = (Job::default(), Job::default());
    keyed.keyed = true;
    let terms = [
        Terms::new(&plain, false, true, hour, Duration::ZERO, &settings),
        Terms::new(&plain, true, true, old, Duration::ZERO, &settings),
        Terms::new(&plain, true, true, Duration::ZERO, old, &settings),
        Terms::new(&keyed, true, true, Duration::ZERO, Duration::ZERO, &settings),
    ];
    for terms in terms {
        let actions = Delivery::new(ME, terms).on(&settings, DeliveryEvent::Begin);
        assert_eq!(actions.last(), Some(&DeliveryAction::Read));
    }
}

#[test]
fn a_lease_of_silence_of_the_submitter_stops_its_job_if_asked_for() {
    use DeliveryTimer::{AskSubmitter, SubmitterSilence};
    let settings = Settings::default();
    let (mut delivery, _) = on_reading(Terms { cancel_if_lost: true, ..terms() }, None, Duration::ZERO);
    let actions = delivery.on(&settings, DeliveryEvent::Written(Written::Stored(8)));
    let (ask, wait) = (
        DeliveryAction::Arm(AskSubmitter, settings.ask),
        DeliveryAction::Arm(SubmitterSilence, settings.lease),
    );
    assert!(actions.contains(&ask) && actions.contains(&wait));
    let actions = delivery.on(&settings, DeliveryEvent::Fired(AskSubmitter));
    assert_eq!(actions, [DeliveryAction::AskSubmitter, ask]);
    assert_eq!(delivery.on(&settings, DeliveryEvent::SubmitterAnswered).first(), Some(&wait));
    assert_eq!(delivery.on(&settings, DeliveryEvent::Reconnected), [wait]);
    let actions = delivery.on(&settings, DeliveryEvent::Fired(SubmitterSilence));
    assert_eq!(actions, [DeliveryAction::Kill { at_once: false }]);
    let actions = delivery.on(&settings, DeliveryEvent::Ended(Verdict::Died(vec![])));
    assert_eq!(written_end(&actions), Some((8, Outcome::Cancelled)));
}

#[test]
fn a_claimant_that_answers_keeps_its_job() {
    let claim = State::Claim { by: OTHER, attempt: 1 };
    let (mut delivery, _) = on_reading(terms(), Some(claim), Duration::ZERO);
    let actions = delivery.on(&Settings::default(), DeliveryEvent::Answered(true));
    assert_eq!(actions, [DeliveryAction::Nak(Duration::from_secs(5)), DeliveryAction::Over]);
}

#[test]
fn a_full_queue_is_tried_again_or_refused() {
    let settings = Settings::default();
    let mut waits = Submission::new(ME, false, false);
    assert_eq!(waits.on(&settings, SubmissionEvent::Begin), [SubmissionAction::Publish]);
    for pause in [1, 2, 4] {
        let actions = waits.on(&settings, SubmissionEvent::Published(Publication::Full));
        assert_eq!(actions, [SubmissionAction::Arm(SubmissionTimer::Pause, Duration::from_secs(pause))]);
        let actions = waits.on(&settings, SubmissionEvent::Fired(SubmissionTimer::Pause));
        assert_eq!(actions, [SubmissionAction::Publish]);
    }
    let mut refuses = Submission::new(ME, false, true);
    refuses.on(&settings, SubmissionEvent::Begin);
    let actions = refuses.on(&settings, SubmissionEvent::Published(Publication::Full));
    assert_eq!(actions, [SubmissionAction::QueueFull, SubmissionAction::Over]);
}

#[test]
fn the_second_with_a_key_does_not_cancel_the_job_of_the_first() {
    let settings = Settings::default();
    let mut second = Submission::new(ME, true, false);
    let actions = second.on(&settings, SubmissionEvent::Begin);
    assert_eq!(actions, [SubmissionAction::Write { expected: 0, state: State::Queued { by: ME } }]);
    assert_eq!(second.on(&settings, SubmissionEvent::Written(Written::Refused)), [SubmissionAction::Read]);
    let claim = Stored { revision: 2, state: State::Claim { by: OTHER, attempt: 1 } };
    let actions = second.on(&settings, SubmissionEvent::Read(Some(Some(claim))));
    assert_eq!(actions, [SubmissionAction::Running(Some(OTHER))]);
    let actions = second.on(&settings, SubmissionEvent::Cancel);
    assert_eq!(actions, [SubmissionAction::Detached, SubmissionAction::Over]);
}

#[test]
fn an_attached_job_ends_with_the_stored_end() {
    let settings = Settings::default();
    let mut attached = Submission::attached(ME);
    assert_eq!(attached.on(&settings, SubmissionEvent::Begin), [SubmissionAction::Read]);
    let end = Box::new(End { by: OTHER, attempt: 1, outcome: Outcome::Returned, body: vec![5] });
    let stored = Stored { revision: 3, state: State::End(end.clone()) };
    let actions = attached.on(&settings, SubmissionEvent::Read(Some(Some(stored))));
    assert_eq!(actions, [SubmissionAction::Ended(end), SubmissionAction::Over]);
}

#[test]
fn a_connection_that_is_back_ends_the_pause_before_the_next_attempt() {
    let settings = Settings::default();
    let mut submission = Submission::new(ME, false, false);
    assert_eq!(submission.on(&settings, SubmissionEvent::Begin), [SubmissionAction::Publish]);
    let actions = submission.on(&settings, SubmissionEvent::Published(Publication::Unknown));
    assert_eq!(actions, [SubmissionAction::Arm(SubmissionTimer::Pause, settings.pause)]);
    assert_eq!(submission.on(&settings, SubmissionEvent::Reconnected), [SubmissionAction::Read]);
    let actions = submission.on(&settings, SubmissionEvent::Read(Some(None)));
    assert_eq!(actions, [SubmissionAction::Publish]);
}

#[test]
fn a_job_whose_state_was_forgotten_is_kept_with_the_dead() {
    let end = End { by: Ulid::default(), attempt: 0, outcome: Outcome::Forgotten, body: Vec::new() };
    let (mut delivery, actions) = on_reading(terms(), Some(State::End(Box::new(end))), Duration::ZERO);
    assert_eq!(actions, [DeliveryAction::Bury(Outcome::Expired)]);
    let actions = delivery.on(&Settings::default(), DeliveryEvent::Buried(true));
    assert_eq!(written_end(&actions), Some((7, Outcome::Expired)));
    let actions = delivery.on(&Settings::default(), DeliveryEvent::Written(Written::Stored(8)));
    assert!(actions.contains(&DeliveryAction::Ack), "{actions:?}");
}
