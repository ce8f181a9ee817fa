//! The stored states of jobs, as they are read or announced.

use offloop::ErrorKind;

use super::{Driver, Event, Found, Number};
use crate::Ulid;
use crate::protocol::Stored;
use crate::records::{Outcome, State};
use crate::store::Announcement;

impl Driver {
    /// Reads the states that machines have asked for, by as few requests as possible.
    pub(super) fn read_due(&mut self) {
        let (mut known, mut places) = (Vec::new(), Vec::new());
        for number in std::mem::take(&mut self.reads) {
            let Some(entry) = self.jobs.get(&number) else { continue };
            let (store, job) = (self.store.clone(), entry.job.id);
            if let Some(place) = entry.place {
                known.push(number);
                places.push(place);
            } else {
                self.request(async move {
                    let found = match store.find(job).await {
                        None => Found::NoAnswer,
                        Some(None) => Found::Nothing,
                        Some(Some((place, stored))) => Found::State(place, stored),
                    };
                    super::Done::Read(vec![(number, found)])
                });
            }
        }
        if known.is_empty() {
            return;
        }
        let store = self.store.clone();
        self.request(async move {
            let read = if let [place] = places[..] {
                store.read(&place).await.map(|read| vec![read])
            } else {
                store.read_many(&places).await
            };
            let found = match read {
                Some(read) => {
                    let read = places.into_iter().zip(read);
                    read.map(|(place, read)| read.map_or(Found::Nothing, |read| Found::State(place, read)))
                        .collect()
                }
                None => vec![Found::NoAnswer; known.len()],
            };
            super::Done::Read(known.into_iter().zip(found).collect())
        });
    }

    pub(super) fn read(&mut self, number: Number, found: Found) {
        let event = match found {
            Found::NoAnswer => Event::Read(None),
            Found::Nothing => Event::Read(Some(None)),
            Found::State(place, stored) => {
                if let Some(entry) = self.jobs.get_mut(&number) {
                    entry.place = Some(place);
                }
                match self.decode(place.job, &stored.bytes) {
                    Ok(state) => Event::Read(Some(Some(Stored { revision: stored.revision, state }))),
                    Err(kind) => return self.give_up(number, kind),
                }
            }
        };
        self.feed(number, event);
    }

    pub(super) fn announced(&mut self, announced: &Announcement) {
        let Announcement { place, revision, bytes } = announced;
        for number in self.numbers_of(place.job) {
            let Some(entry) = self.jobs.get_mut(&number) else { continue };
            if *entry.place.get_or_insert(*place) != *place {
                continue;
            }
            match self.decode(place.job, bytes) {
                Ok(state) => self.feed(number, Event::Announced(Stored { revision: *revision, state })),
                Err(kind) => self.give_up(number, kind),
            }
        }
    }

    pub(super) fn numbers_of(&self, job: Ulid) -> Vec<Number> {
        self.ids.range((job, 0)..=(job, Number::MAX)).map(|(_, number)| *number).collect()
    }

    /// Reads the state of a job. An end that does not count is an error.
    pub(super) fn decode(&self, job: Ulid, bytes: &[u8]) -> Result<State, ErrorKind> {
        let unreadable = |error| ErrorKind::Decode(format!("the state of the job in the cluster: {error}"));
        let state = State::decode(bytes).map_err(unreadable)?;
        // The server's own mark is not signed, and nothing is believed by it but that there is no result.
        if let State::End(end) = &state
            && end.outcome != Outcome::Forgotten
        {
            let admitted = self.shared.seals.admit_end(self.store.names().namespace(), job, bytes, end);
            admitted.map_err(|reason| ErrorKind::NotTrusted(reason.into()))?;
        }
        Ok(state)
    }

    /// Ends a job here whose state is no record, one of a newer version, or an end that does not count. What becomes of it
    /// cannot be known.
    pub(super) fn give_up(&mut self, number: Number, kind: ErrorKind) {
        self.end_here(number, kind);
        self.remove(number);
    }
}
