//! The names of layout 1: the streams, subjects and headers that all parties of a namespace agree on.

use crate::Ulid;

/// The version of the layout. All names carry it.
pub(crate) const LAYOUT: u32 = 1;

/// The client's token in the place of a job with a key, which several clients may submit.
const SHARED: &str = "key";

/// The header by which the server drops a second copy of a message.
pub(crate) const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The header with the revision that a write replaces.
pub(crate) const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
/// The header with the time after which the server forgets a message.
pub(crate) const TTL: &str = "Nats-TTL";
/// The header of the mark that the server leaves of a message whose time has passed.
pub(crate) const MARKER: &str = "Nats-Marker-Reason";
/// The header of a stored message with its place in its stream.
pub(crate) const SEQUENCE: &str = "Nats-Sequence";
/// The header of a stored message with its subject.
pub(crate) const SUBJECT: &str = "Nats-Subject";
/// The header of a stored message with the time when it was stored, by the server's clock.
pub(crate) const STORED_AT: &str = "Nats-Time-Stamp";
/// The header of a job's message with the name of its task, for those who watch the traffic.
pub(crate) const TASK: &str = "Offloop-Task";
/// The header of a dead job's message with its end.
pub(crate) const REASON: &str = "Offloop-Reason";
/// The header of a dead job's message with the queue that it was in.
pub(crate) const QUEUE: &str = "Offloop-Queue";

/// One of the three lines of a queue. Those of a higher band are taken first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Band {
    /// Jobs whose priority is above 0.
    High,
    /// Jobs whose priority is 0.
    Normal,
    /// Jobs whose priority is below 0.
    Low,
}

impl Band {
    /// All bands, in the order in which they are taken from.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// Returns the band of jobs with this priority.
    pub fn of(priority: i8) -> Self {
        match priority {
            1.. => Self::High,
            0 => Self::Normal,
            _ => Self::Low,
        }
    }

    /// Returns the name, which is part of subjects.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }
}

/// The subject on which a job's states are: it holds the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    /// The submitter; `None` for a job with a key, which belongs to no client.
    pub(crate) client: Option<Ulid>,
    pub(crate) job: Ulid,
}

impl Place {
    /// Returns the place of a job.
    pub(crate) fn of(job: &crate::records::Job) -> Self {
        Self { client: (!job.keyed).then_some(job.client), job: job.id }
    }

    fn tail(&self) -> String {
        match self.client {
            Some(client) => format!("{client}.{}", self.job),
            None => format!("{SHARED}.{}", self.job),
        }
    }

    /// Reads the place from the end of a subject.
    pub(crate) fn from_subject(subject: &str) -> Option<Self> {
        let mut tokens = subject.rsplit('.');
        let job = tokens.next()?.parse().ok()?;
        let client = match tokens.next()? {
            SHARED => None,
            client => Some(client.parse().ok()?),
        };
        Some(Self { client, job })
    }
}

/// A part of a job that is stored by itself because it is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Part {
    Arguments,
    /// The arguments of a job that is dead, which stay as long as its dead letter.
    DeadArguments,
    /// The result, or the error, of this start. Each start has its own, so that a worker that was taken for dead does not
    /// overwrite what another one has stored.
    Result(u32),
    /// A streamed item.
    Item(u64),
}

impl Part {
    fn token(self) -> String {
        match self {
            Self::Arguments | Self::DeadArguments => "args".to_owned(),
            Self::Result(attempt) => format!("result-{attempt}"),
            Self::Item(number) => format!("item-{number}"),
        }
    }

    /// Returns the first token of its subjects, which decides about their stream.
    fn kind(self) -> &'static str {
        match self {
            Self::Arguments => "args",
            Self::DeadArguments => "dead",
            Self::Result(_) | Self::Item(_) => "blob",
        }
    }
}

/// The names of one namespace.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    namespace: String,
}

impl Names {
    /// Returns the names of a namespace. Its own name has been [checked](is_name).
    pub(crate) fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned() }
    }

    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    fn stream(&self, what: &str) -> String {
        format!("OFFLOOP{LAYOUT}_{}_{what}", self.namespace)
    }

    pub(crate) fn jobs(&self) -> String {
        self.stream("JOBS")
    }

    pub(crate) fn states(&self) -> String {
        self.stream("STATE")
    }

    pub(crate) fn blobs(&self) -> String {
        self.stream("BLOBS")
    }

    pub(crate) fn arguments(&self) -> String {
        self.stream("ARGS")
    }

    /// Returns the stream with this part of jobs.
    pub(crate) fn stream_of(&self, part: Part) -> String {
        match part {
            Part::Arguments => self.arguments(),
            Part::DeadArguments => self.dead(),
            Part::Result(_) | Part::Item(_) => self.blobs(),
        }
    }

    /// Returns the stream that exists for a moment, by which the store is measured.
    pub(crate) fn probe(&self) -> String {
        self.stream("PROBE")
    }

    /// Returns the stream that is there while a party measures the store.
    pub(crate) fn measuring(&self) -> String {
        self.stream("MEASURING")
    }

    pub(crate) fn dead(&self) -> String {
        self.stream("DEAD")
    }

    /// Returns the bucket of the workers, which is a stream to the server.
    pub(crate) fn workers(&self) -> String {
        format!("KV_{}", self.stream("WORKERS"))
    }

    /// Returns the version of the layout, if this is the stream with the jobs of this namespace in any layout.
    pub(crate) fn layout_of(&self, stream: &str) -> Option<u32> {
        let version = stream.strip_prefix("OFFLOOP")?.strip_suffix("_JOBS")?.strip_suffix(&self.namespace)?;
        version.strip_suffix('_')?.parse().ok()
    }

    /// Returns a pattern for the subjects of this namespace in any layout.
    pub(crate) fn any_layout(&self) -> String {
        format!("offloop.*.{}.job.>", self.namespace)
    }

    /// Returns a subject of this namespace.
    pub(crate) fn subject(&self, tail: impl std::fmt::Display) -> String {
        format!("offloop.{LAYOUT}.{}.{tail}", self.namespace)
    }

    pub(crate) fn all_jobs(&self) -> String {
        self.subject("job.>")
    }

    pub(crate) fn job(&self, queue: &str, band: Band) -> String {
        self.subject(format_args!("job.{queue}.{}", band.as_str()))
    }

    /// Returns the consumer with the leases of a band.
    pub(crate) fn consumer(queue: &str, band: Band) -> String {
        format!("{queue}-{}", band.as_str())
    }

    /// Reads the queue and the band from the subject of jobs.
    pub(crate) fn queue_of(subject: &str) -> Option<(&str, Band)> {
        let mut tokens = subject.rsplit('.');
        let band = tokens.next()?;
        let band = Band::ALL.into_iter().find(|it| it.as_str() == band)?;
        Some((tokens.next()?, band))
    }

    pub(crate) fn all_states(&self) -> String {
        self.subject("state.*.*")
    }

    pub(crate) fn state(&self, place: &Place) -> String {
        self.subject(format_args!("state.{}", place.tail()))
    }

    /// Returns the pattern for the state of a job whose client is not known.
    pub(crate) fn state_of_any(&self, job: Ulid) -> String {
        self.subject(format_args!("state.*.{job}"))
    }

    /// Returns the rule by which the server announces states: the pattern of those, and where each goes.
    pub(crate) fn announcement(&self) -> (String, String) {
        (self.all_states(), self.subject("event.{{wildcard(1)}}.{{wildcard(2)}}"))
    }

    pub(crate) fn events_of(&self, client: Ulid) -> String {
        self.subject(format_args!("event.{client}.*"))
    }

    /// Returns the pattern for the announcements about a job whose client is another one, or none.
    pub(crate) fn events_about(&self, job: Ulid) -> String {
        self.subject(format_args!("event.*.{job}"))
    }

    pub(crate) fn all_blobs(&self) -> String {
        self.subject("blob.*.*.*")
    }

    pub(crate) fn all_arguments(&self) -> String {
        self.subject("args.*.*.*")
    }

    pub(crate) fn chunks(&self, job: Ulid, part: Part) -> String {
        self.subject(format_args!("{}.{job}.{}.*", part.kind(), part.token()))
    }

    pub(crate) fn blob(&self, job: Ulid, part: Part, chunk: u32) -> String {
        self.subject(format_args!("{}.{job}.{}.{chunk}", part.kind(), part.token()))
    }

    pub(crate) fn all_dead(&self) -> String {
        self.subject("dead.*")
    }

    pub(crate) fn all_dead_arguments(&self) -> String {
        self.subject("dead.*.*.*")
    }

    pub(crate) fn dead_job(&self, job: Ulid) -> String {
        self.subject(format_args!("dead.{job}"))
    }

    pub(crate) fn all_workers(&self) -> String {
        format!("$KV.{}.*", self.stream("WORKERS"))
    }

    pub(crate) fn worker(&self, worker: Ulid) -> String {
        format!("$KV.{}.{worker}", self.stream("WORKERS"))
    }

    pub(crate) fn ask(&self, party: Ulid) -> String {
        self.subject(format_args!("ask.{party}"))
    }

    pub(crate) fn item(&self, client: Ulid, job: Ulid) -> String {
        self.subject(format_args!("item.{client}.{job}"))
    }

    pub(crate) fn items_of(&self, client: Ulid) -> String {
        self.subject(format_args!("item.{client}.*"))
    }
}

/// Returns whether this may be the name of a namespace or of a queue: 1 to 64 letters, digits, `_` and `-`.
pub(crate) fn is_name(name: &str) -> bool {
    let is_part = |it: u8| it.is_ascii_alphanumeric() || it == b'_' || it == b'-';
    (1..=64).contains(&name.len()) && name.bytes().all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_queues_are_read_from_subjects() {
        let names = Names::new("test");
        let (client, job) = (Ulid::new(), Ulid::new());
        for client in [Some(client), None] {
            let place = Place { client, job };
            assert_eq!(Place::from_subject(&names.state(&place)), Some(place));
        }
        assert_eq!(Place::from_subject("offloop.1.test.state.me.you"), None);
        for band in Band::ALL {
            assert_eq!(Names::queue_of(&names.job("default", band)), Some(("default", band)));
        }
    }

    #[test]
    fn a_layout_is_known_by_the_name_of_the_jobs_stream() {
        let names = Names::new("a_b");
        assert_eq!(names.layout_of(&names.jobs()), Some(LAYOUT));
        assert_eq!(names.layout_of("OFFLOOP7_a_b_JOBS"), Some(7));
        for other in ["OFFLOOP7_b_JOBS", "OFFLOOP7_a_b_STATE", "OFFLOOP_a_b_JOBS", "JOBS"] {
            assert_eq!(names.layout_of(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_is_one_token_of_a_subject() {
        assert!(is_name("default") && is_name("a-b_C9"));
        for wrong in ["", "a.b", "a b", "*", ">", "ä", &"x".repeat(65)] {
            assert!(!is_name(wrong), "{wrong:?}");
        }
    }
}
