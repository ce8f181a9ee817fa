//! The way to the server: the layout of the namespace, what is listened for, and what a new connection changes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use offloop::ErrorKind;
use tokio::time::sleep;

use super::{Done, Driver, Event, lock};
use crate::store::{LayoutError, Link};

impl Driver {
    /// Lays the namespace out and begins to listen, after this time.
    pub(super) fn prepare(&mut self, pause: Duration) {
        let (store, me, capacity) = (self.store.clone(), self.shared.me, self.capacity);
        self.request(async move {
            sleep(pause).await;
            let prepare = async {
                let capacity = store.prepare(&[], capacity).await?;
                let silent = || LayoutError::Unreachable("no room for a subscription".to_owned());
                let events = store.events(me).await.ok_or_else(silent)?;
                let items = store.items(me).await.ok_or_else(silent)?;
                let asked = store.asked(me).await.ok_or_else(silent)?;
                Ok((capacity, Box::new((events, items, asked))))
            };
            Done::Prepared(prepare.await)
        });
    }

    pub(super) fn begin_all(&mut self, capacity: u64) {
        self.is_ready = true;
        self.shared.capacity.store(capacity, Ordering::Relaxed);
        *lock(&self.shared.trouble) = None;
        let mut waiting: Vec<_> = self.jobs.keys().copied().collect();
        waiting.sort_unstable();
        for number in waiting {
            self.begin(number);
        }
    }

    /// Ends what has come if this program cannot work with the cluster. Else tries again.
    pub(super) fn failed_to_prepare(&mut self, error: &LayoutError) {
        let text = error.to_string();
        *lock(&self.shared.trouble) = Some(text.clone());
        if !matches!(error, LayoutError::Newer { .. } | LayoutError::OldServer { .. }) {
            let pause = self.store.settings().pause;
            return self.prepare(pause);
        }
        *lock(&self.shared.unfit) = Some(text.clone());
        let numbers: Vec<_> = self.jobs.keys().copied().collect();
        for number in numbers {
            self.end_here(number, ErrorKind::Unreachable(text.clone().into()));
            self.remove(number);
        }
    }

    pub(super) fn link_changed(&mut self, link: &Link) {
        if link.is_up && link.epoch != self.epoch {
            self.epoch = link.epoch;
            self.feed_all(&Event::Reconnected);
            self.owing.extend(self.jobs.iter().filter(|(_, it)| it.job.stream.is_some()).map(|(it, _)| *it));
        }
    }
}
