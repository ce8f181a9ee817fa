//! The submitter and the workers: how their machines' actions change the world.

use super::*;

impl World {
    pub(super) fn client(&mut self, scene: &Scene, event: SubmissionEvent) {
        let Some(submission) = &mut self.client.submission else { return };
        let actions = submission.on(&scene.settings(0), event);
        let answer = 1;
        for action in actions {
            let call = match action {
                SubmissionAction::Publish => Call::Publish,
                SubmissionAction::Write { expected, state } => Call::Write(expected, state),
                SubmissionAction::Read => Call::Read,
                SubmissionAction::Delete(message) => Call::Delete(message),
                SubmissionAction::AskToCancel(worker) => {
                    self.client.question = Some(worker);
                    continue;
                }
                SubmissionAction::Arm(timer, after) => {
                    self.client.timers.insert(timer, after.as_secs());
                    continue;
                }
                SubmissionAction::Accepted | SubmissionAction::Running(_) => continue,
                SubmissionAction::Ended(end) => {
                    let stored = self.store.as_ref().map(|stored| &stored.state);
                    if self.client.was_told || stored != Some(&State::End(end)) {
                        self.broken = Some("the submitter learns the stored end, once");
                    }
                    self.client.was_told = true;
                    continue;
                }
                SubmissionAction::QueueFull => {
                    if self.client.was_told || self.starts > 0 {
                        self.broken = Some("a job that found no room does not run");
                    }
                    self.client.was_told = true;
                    continue;
                }
                SubmissionAction::Detached => {
                    self.client.was_told = true;
                    continue;
                }
                SubmissionAction::Over => {
                    self.client.submission = None;
                    self.client.timers.clear();
                    self.client.question = None;
                    return;
                }
            };
            assert!(self.client.request.is_none(), "one request at a time");
            self.client.request = Some(Request { call, answer: None, patience: answer });
        }
    }

    pub(super) fn worker(&mut self, scene: &Scene, at: usize, event: DeliveryEvent) {
        let settings = scene.settings(at);
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            let worker = &mut self.workers[at];
            let Some((message, delivery)) = &mut worker.delivery else { return };
            let message = *message;
            for action in delivery.on(&settings, event) {
                let call = match action {
                    DeliveryAction::Read => Call::Read,
                    DeliveryAction::Write { expected, state } => Call::Write(expected, state),
                    DeliveryAction::Bury(_) => Call::Bury,
                    DeliveryAction::Ask(id) => {
                        worker.question = Question::Sent(id);
                        continue;
                    }
                    DeliveryAction::Start { attempt } => {
                        assert_eq!(worker.process, Process::None);
                        worker.process = Process::Runs;
                        self.starts += 1;
                        if attempt > 1 + scene.retry || self.starts > 1 + scene.retry {
                            self.broken = Some("starts are bounded");
                        }
                        if let Some(Stored { state: State::End(end), .. }) = &self.store
                            && end.by == CLIENT
                        {
                            self.broken = Some("a job that was cancelled before it ran does not run");
                        }
                        continue;
                    }
                    DeliveryAction::Kill { at_once } => {
                        assert_ne!(worker.process, Process::None);
                        worker.process = Process::Dies { at_once };
                        continue;
                    }
                    DeliveryAction::WantSlot => {
                        events.push(DeliveryEvent::Slot);
                        continue;
                    }
                    DeliveryAction::Ack => {
                        self.answers.push((message, true));
                        continue;
                    }
                    DeliveryAction::Nak(_) => {
                        self.answers.push((message, false));
                        continue;
                    }
                    // The queue delivers at any time, so that nothing depends on progress.
                    DeliveryAction::Arm(DeliveryTimer::Progress, _)
                    | DeliveryAction::FreeSlot
                    | DeliveryAction::AskSubmitter
                    | DeliveryAction::Progress
                    | DeliveryAction::Refused => continue,
                    DeliveryAction::Arm(timer, after) => {
                        if scene.exclusive || timer != DeliveryTimer::Renew {
                            worker.timers.insert(timer, if scene.exclusive { after.as_secs() } else { 0 });
                        }
                        continue;
                    }
                    DeliveryAction::Disarm(timer) => {
                        worker.timers.remove(&timer);
                        continue;
                    }
                    DeliveryAction::Over => {
                        assert_eq!(worker.process, Process::None, "a delivery outlives its process");
                        worker.delivery = None;
                        worker.timers.clear();
                        worker.question = Question::None;
                        break;
                    }
                };
                assert!(worker.request.is_none(), "one request at a time");
                worker.request = Some(Request { call, answer: None, patience: 1 });
            }
        }
        let running = self.workers.iter().filter(|worker| worker.process != Process::None).count();
        if scene.exclusive && running > 1 {
            self.broken = Some("an exclusive job does not run twice at once");
        }
    }

    pub(super) fn find(&self, id: Ulid) -> Option<usize> {
        self.workers.iter().position(|worker| worker.id == id && worker.is_alive)
    }
}
