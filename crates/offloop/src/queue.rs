//! A queue by priority, first come first served within one, from whose middle a job can be removed.

use std::collections::VecDeque;

/// Each priority has its own line. A removed entry leaves a hole; holes at the front of a line go at once, so
/// a front is always an entry, and every operation is amortised constant for a given set of priorities.
#[derive(Debug)]
pub(crate) struct Queue<J> {
    /// Sorted by priority, highest first. A line that ran empty stays for its next job.
    lines: Vec<Line<J>>,
    len: usize,
}

#[derive(Debug)]
struct Line<J> {
    priority: i8,
    /// The ticket of the front entry; the others follow by one.
    front_ticket: u64,
    entries: VecDeque<Option<J>>,
}

impl<J> Line<J> {
    fn pop(&mut self) -> Option<J> {
        let entry = self.entries.pop_front()?;
        self.front_ticket += 1;
        self.drop_front_holes();
        entry
    }

    fn drop_front_holes(&mut self) {
        while let Some(None) = self.entries.front() {
            self.entries.pop_front();
            self.front_ticket += 1;
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

    /// The ticket that the next entry of this priority will have.
    pub(crate) fn next_ticket(&mut self, priority: i8) -> u64 {
        let line = self.line(priority);
        line.front_ticket + line.entries.len() as u64
    }

    /// Appends. The entry's ticket, for `remove`, is what `next_ticket` said.
    pub(crate) fn push(&mut self, priority: i8, job: J) {
        self.line(priority).entries.push_back(Some(job));
        self.len += 1;
    }

    /// The first entry of the highest priority.
    pub(crate) fn pop(&mut self) -> Option<J> {
        let job = self.lines.iter_mut().find_map(Line::pop);
        self.len -= usize::from(job.is_some());
        job
    }

    /// The priority that `pop_oldest_lowest` would take from.
    pub(crate) fn lowest_priority(&self) -> Option<i8> {
        self.lines.iter().rev().find(|line| !line.entries.is_empty()).map(|line| line.priority)
    }

    /// The first entry of the lowest priority: the one to shed.
    pub(crate) fn pop_oldest_lowest(&mut self) -> Option<J> {
        let job = self.lines.iter_mut().rev().find_map(Line::pop);
        self.len -= usize::from(job.is_some());
        job
    }

    /// Takes out the entry with this ticket, if it is here and `is_it`.
    pub(crate) fn remove(&mut self, priority: i8, ticket: u64, is_it: impl FnOnce(&J) -> bool) -> Option<J> {
        let at = self.lines.iter().position(|line| line.priority == priority)?;
        let line = &mut self.lines[at];
        let index = usize::try_from(ticket.checked_sub(line.front_ticket)?).ok()?;
        let job = line.entries.get_mut(index)?.take_if(|job| is_it(job))?;
        line.drop_front_holes();
        self.len -= 1;
        Some(job)
    }

    /// Gives unused memory back.
    pub(crate) fn shrink(&mut self) {
        for line in &mut self.lines {
            line.entries.shrink_to(line.entries.len().max(64));
        }
    }

    fn line(&mut self, priority: i8) -> &mut Line<J> {
        let at = match self.lines.binary_search_by(|line| priority.cmp(&line.priority)) {
            Ok(at) => at,
            Err(at) => {
                self.lines.insert(at, Line { priority, front_ticket: 0, entries: VecDeque::new() });
                at
            }
        };
        &mut self.lines[at]
    }
}
