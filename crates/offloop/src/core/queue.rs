//! A queue by priority, first come, first served within one priority. Jobs can be removed from its middle.

use std::collections::VecDeque;

/// A queue with one line per priority.
///
/// A removed entry leaves a hole. Holes at the front of a line are dropped at once, so the front is always an entry. The
/// others are dropped when they outnumber the entries, so a line whose jobs are cancelled behind a stuck one stays
/// bounded. For a given set of priorities every operation takes amortised constant time, except the binary search of a
/// removal.
#[derive(Debug)]
pub(crate) struct Queue<J> {
    /// Sorted by priority, highest first. An empty line is kept for its next job.
    lines: Vec<Line<J>>,
    /// Counts the entries of all lines, without holes.
    len: usize,
}

#[derive(Debug)]
struct Line<J> {
    priority: i8,
    next_ticket: u64,
    /// Entries and holes with their tickets, in the order of the tickets.
    entries: VecDeque<(u64, Option<J>)>,
    holes: usize,
}

/// The number of holes that may always stay, in addition to one per entry.
const SPARE_HOLES: usize = 64;

impl<J> Line<J> {
    fn pop(&mut self) -> Option<J> {
        let (_, entry) = self.entries.pop_front()?;
        self.drop_holes();
        entry
    }

    fn drop_holes(&mut self) {
        while let Some((_, None)) = self.entries.front() {
            self.entries.pop_front();
            self.holes -= 1;
        }
        if self.holes > self.entries.len() / 2 + SPARE_HOLES {
            self.entries.retain(|(_, entry)| entry.is_some());
            self.holes = 0;
        }
    }
}

impl<J> Queue<J> {
    pub(crate) fn new() -> Self {
        Self { lines: Vec::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the ticket that the next entry of this priority will have.
    pub(crate) fn next_ticket(&mut self, priority: i8) -> u64 {
        self.line(priority).next_ticket
    }

    /// Appends an entry. Its ticket, for `remove`, is what `next_ticket` returned.
    pub(crate) fn push(&mut self, priority: i8, job: J) {
        let line = self.line(priority);
        line.entries.push_back((line.next_ticket, Some(job)));
        line.next_ticket += 1;
        self.len += 1;
    }

    /// Inserts an entry that was taken out, at the place of its former ticket.
    pub(crate) fn put_back(&mut self, priority: i8, ticket: u64, job: J) {
        let entries = &mut self.line(priority).entries;
        let at = entries.partition_point(|(other, _)| *other < ticket);
        entries.insert(at, (ticket, Some(job)));
        self.len += 1;
    }

    /// Removes and returns the first entry of the highest priority.
    pub(crate) fn pop(&mut self) -> Option<J> {
        let job = self.lines.iter_mut().find_map(Line::pop);
        self.len -= usize::from(job.is_some());
        job
    }

    /// Returns the entry that `pop` would remove.
    pub(crate) fn peek(&self) -> Option<&J> {
        self.lines.iter().find_map(|line| line.entries.front()?.1.as_ref())
    }

    /// Iterates over the first entry of each priority.
    #[cfg(feature = "observe")]
    pub(crate) fn fronts(&self) -> impl Iterator<Item = &J> {
        self.lines.iter().filter_map(|line| line.entries.front()?.1.as_ref())
    }

    /// Returns the priority of the entry that `pop_oldest_lowest` would remove.
    pub(crate) fn lowest_priority(&self) -> Option<i8> {
        self.lines.iter().rev().find(|line| !line.entries.is_empty()).map(|line| line.priority)
    }

    /// Removes and returns the first entry of the lowest priority, which is the one to shed.
    pub(crate) fn pop_oldest_lowest(&mut self) -> Option<J> {
        let job = self.lines.iter_mut().rev().find_map(Line::pop);
        self.len -= usize::from(job.is_some());
        job
    }

    /// Removes and returns the entry with this ticket, if it is here and `is_it` confirms it.
    pub(crate) fn remove(&mut self, priority: i8, ticket: u64, is_it: impl FnOnce(&J) -> bool) -> Option<J> {
        let at = self.lines.iter().position(|line| line.priority == priority)?;
        let line = &mut self.lines[at];
        let index = line.entries.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        let job = line.entries[index].1.take_if(|job| is_it(job))?;
        line.holes += 1;
        line.drop_holes();
        self.len -= 1;
        Some(job)
    }

    /// Releases unused memory.
    pub(crate) fn shrink(&mut self) {
        for line in &mut self.lines {
            line.entries.shrink_to(line.entries.len().max(64));
        }
    }

    fn line(&mut self, priority: i8) -> &mut Line<J> {
        let at = match self.lines.binary_search_by(|line| priority.cmp(&line.priority)) {
            Ok(at) => at,
            Err(at) => {
                self.lines.insert(at, Line { priority, next_ticket: 0, entries: VecDeque::new(), holes: 0 });
                at
            }
        };
        &mut self.lines[at]
    }
}

#[cfg(all(test, not(any(shuttle, weak_memory))))]
mod tests {
    use proptest::prelude::*;

    use super::{Queue, SPARE_HOLES};

    /// The same, written naively: entries in the order of their arrival.
    #[derive(Default, Clone)]
    struct Model(Vec<(i8, u32)>);

    impl Model {
        fn find(&self, better: impl Fn(i8, i8) -> bool) -> Option<usize> {
            let best = |best: usize, at: usize| if better(self.0[at].0, self.0[best].0) { at } else { best };
            (0..self.0.len()).reduce(best)
        }

        fn pop(&mut self) -> Option<u32> {
            self.find(|a, b| a > b).map(|at| self.0.remove(at).1)
        }

        fn put_back(&mut self, priority: i8, job: u32) {
            // They are numbered in the order of their arrival.
            let at = self.0.partition_point(|entry| entry.1 < job);
            self.0.insert(at, (priority, job));
        }

        fn pop_oldest_lowest(&mut self) -> Option<u32> {
            self.find(|a, b| a < b).map(|at| self.0.remove(at).1)
        }

        fn remove(&mut self, job: u32) -> Option<u32> {
            let at = self.0.iter().position(|entry| entry.1 == job)?;
            Some(self.0.remove(at).1)
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(i8),
        Pop,
        Shed,
        /// Of one that was taken out.
        PutBack(prop::sample::Index),
        /// Of any job that there ever was: queued, gone, or gone with its ticket.
        Remove(prop::sample::Index),
        Shrink,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => prop_oneof![-1..=1_i8, Just(i8::MIN), Just(i8::MAX)].prop_map(Step::Push),
            2 => Just(Step::Pop),
            1 => Just(Step::Shed),
            2 => any::<prop::sample::Index>().prop_map(Step::PutBack),
            4 => any::<prop::sample::Index>().prop_map(Step::Remove),
            1 => Just(Step::Shrink),
        ];
        prop::collection::vec(step, 0..400)
    }

    proptest! {
        #[test]
        fn it_does_what_a_sorted_list_does(steps in steps()) {
            let (mut queue, mut model) = (Queue::new(), Model::default());
            let mut jobs: Vec<(i8, u64)> = Vec::new();
            let mut taken: Vec<u32> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(priority) => {
                        let job = u32::try_from(jobs.len()).unwrap();
                        jobs.push((priority, queue.next_ticket(priority)));
                        queue.push(priority, job);
                        model.0.push((priority, job));
                    }
                    Step::Pop => {
                        prop_assert_eq!(queue.peek().copied(), model.clone().pop());
                        let job = queue.pop();
                        prop_assert_eq!(job, model.pop());
                        taken.extend(job);
                    }
                    Step::Shed => {
                        let job = queue.pop_oldest_lowest();
                        prop_assert_eq!(job, model.pop_oldest_lowest());
                        taken.extend(job);
                    }
                    Step::PutBack(_) if taken.is_empty() => {}
                    Step::PutBack(index) => {
                        let job = taken.swap_remove(index.index(taken.len()));
                        let (priority, ticket) = jobs[job as usize];
                        queue.put_back(priority, ticket, job);
                        model.put_back(priority, job);
                    }
                    Step::Remove(_) if jobs.is_empty() => {}
                    Step::Remove(index) => {
                        let at = index.index(jobs.len());
                        let job = u32::try_from(at).unwrap();
                        let (priority, ticket) = jobs[at];
                        prop_assert_eq!(queue.remove(priority, ticket, |it| *it == job), model.remove(job));
                    }
                    Step::Shrink => queue.shrink(),
                }
                prop_assert_eq!(queue.len(), model.0.len());
                prop_assert_eq!(queue.lowest_priority(), model.0.iter().map(|entry| entry.0).min());
            }
            while let Some(job) = model.pop() {
                prop_assert_eq!(queue.pop(), Some(job));
            }
            prop_assert_eq!(queue.pop(), None);
        }
    }

    #[test]
    fn only_the_job_that_is_meant_is_removed() {
        let mut queue = Queue::new();
        let ticket = queue.next_ticket(0);
        queue.push(0, "here");
        assert_eq!(queue.remove(0, ticket, |job| *job == "elsewhere"), None);
        assert_eq!(queue.remove(1, ticket, |_| true), None);
        assert_eq!(queue.remove(0, ticket + 1, |_| true), None);
        assert_eq!(queue.remove(0, ticket, |job| *job == "here"), Some("here"));
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn jobs_cancelled_behind_a_stuck_one_take_no_memory() {
        let mut queue = Queue::new();
        queue.push(0, 0);
        for job in 1..100_000 {
            let ticket = queue.next_ticket(0);
            queue.push(0, job);
            queue.push(0, job);
            assert_eq!(queue.remove(0, ticket, |_| true), Some(job));
            assert_eq!(queue.remove(0, ticket + 1, |_| true), Some(job));
        }
        assert_eq!(queue.len(), 1);
        assert!(queue.lines[0].entries.len() <= 2 * SPARE_HOLES + 4);
    }

    #[test]
    fn a_queue_that_ran_empty_gives_its_memory_back() {
        let mut queue = Queue::new();
        (0..10_000).for_each(|job| queue.push(0, job));
        while queue.pop().is_some() {}
        queue.shrink();
        assert!(queue.lines[0].entries.capacity() < 1_000);
    }
}
