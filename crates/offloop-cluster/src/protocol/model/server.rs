//! The model's server and network.

use super::*;

impl World {
    pub(super) fn write(&mut self, scene: &Scene, expected: Revision, state: State) -> Written {
        let revision = self.store.as_ref().map_or(0, |stored| stored.revision);
        if scene.compares && revision != expected {
            return Written::Refused;
        }
        if let Some(Stored { state: State::End(_), .. }) = &self.store {
            self.broken = Some("a job ends once");
        }
        if let State::End(end) = &state {
            let is_dead = matches!(end.outcome, Outcome::Lost | Outcome::Expired | Outcome::NoSuchTask);
            if is_dead && !self.buried {
                self.broken = Some("a dead job lies with the dead letters");
            }
            if end.by == CLIENT && end.attempt == 0 && self.starts > 0 {
                self.broken = Some("a job that was cancelled before it ran does not run");
            }
        }
        self.last += 1;
        let stored = Stored { revision: self.last, state };
        self.client.announced = Some(stored.clone());
        self.store = Some(stored);
        Written::Stored(self.last)
    }

    pub(super) fn publish(&mut self, scene: &Scene) -> Publication {
        if scene.dedupes && self.last_message > 0 {
            return Publication::Stored(self.last_message);
        }
        if self.queue.len() >= scene.capacity.into() {
            return Publication::Full;
        }
        self.last_message += 1;
        self.queue.insert(self.last_message, false);
        Publication::Stored(self.last_message)
    }

    /// Carries out a call at the server, and returns the answers that a worker and a client would get.
    pub(super) fn serve(&mut self, scene: &Scene, call: &Call) -> (DeliveryEvent, SubmissionEvent) {
        match call {
            Call::Read => {
                let stored = self.store.clone();
                let aged = stored.clone().map(|stored| (stored, Duration::MAX));
                (DeliveryEvent::Read(Some(aged)), SubmissionEvent::Read(Some(stored)))
            }
            Call::Write(expected, state) => {
                let written = self.write(scene, *expected, state.clone());
                (DeliveryEvent::Written(written), SubmissionEvent::Written(written))
            }
            Call::Publish => {
                let published = self.publish(scene);
                (DeliveryEvent::Begin, SubmissionEvent::Published(published))
            }
            Call::Delete(message) => {
                self.queue.remove(message);
                (DeliveryEvent::Begin, SubmissionEvent::Deleted(true))
            }
            Call::Bury => {
                self.buried = true;
                (DeliveryEvent::Buried(true), SubmissionEvent::Begin)
            }
        }
    }

    /// Carries a call, or loses a part of it. Returns the answers.
    pub(super) fn carry(
        &mut self,
        scene: &Scene,
        call: &Call,
        network: Network,
    ) -> (DeliveryEvent, SubmissionEvent) {
        if network != Network::Carries {
            self.faults -= 1;
        }
        let answers = match network {
            Network::LosesRequest | Network::Delays => None,
            Network::Carries | Network::LosesAnswer | Network::Doubles => Some(self.serve(scene, call)),
        };
        if let (Network::Delays | Network::Doubles, Call::Write(expected, state)) = (network, call) {
            self.late.push((*expected, state.clone()));
        }
        match answers {
            Some(answers) if network != Network::LosesAnswer => answers,
            _ => match call {
                Call::Read => (DeliveryEvent::Read(None), SubmissionEvent::Read(None)),
                Call::Write(..) => {
                    (DeliveryEvent::Written(Written::Unknown), SubmissionEvent::Written(Written::Unknown))
                }
                Call::Publish => (DeliveryEvent::Begin, SubmissionEvent::Published(Publication::Unknown)),
                Call::Delete(_) => (DeliveryEvent::Begin, SubmissionEvent::Deleted(false)),
                Call::Bury => (DeliveryEvent::Buried(false), SubmissionEvent::Begin),
            },
        }
    }
}
