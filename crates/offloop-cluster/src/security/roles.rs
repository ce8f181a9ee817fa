//! The parts in a cluster, as permissions on its server.

use std::fmt::Write as _;

use crate::names::{Band, Names};

/// A part in a cluster. Each has the permissions on the server that it needs, and no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Submits jobs, stops them, and learns their ends. It can make no streams: a worker or an operator comes first.
    Submitter,
    /// Takes jobs and runs them.
    Worker,
    /// Looks at everything in a namespace, puts dead jobs into their queues again, drains workers, and changes streams.
    Operator,
}

/// The subjects that a role may use.
#[derive(Debug, Default)]
struct Permissions {
    publish: Vec<String>,
    subscribe: Vec<String>,
    /// It may answer what it is asked.
    answers: bool,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Submitter, Self::Worker, Self::Operator];

    /// Returns the role's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitter => "submitter",
            Self::Worker => "worker",
            Self::Operator => "operator",
        }
    }

    /// Returns the role's permissions in a namespace, as a block for a user in the configuration of a NATS server:
    /// `permissions { … }`. With `queues` the role reaches these queues only, else all.
    ///
    /// # Panics
    ///
    /// If the namespace or a queue has a name that no namespace or queue can have.
    pub fn permissions(self, namespace: &str, queues: &[String]) -> String {
        for name in queues.iter().map(String::as_str).chain([namespace]) {
            assert!(crate::names::is_name(name), "`{name}` is no name of a namespace or of a queue");
        }
        let Permissions { publish, subscribe, answers } = self.subjects(&Names::new(namespace), queues);
        let mut text = String::from("permissions {\n");
        for (verb, subjects) in [("publish", publish), ("subscribe", subscribe)] {
            let _ = writeln!(text, "    {verb} {{ allow: [");
            for subject in subjects {
                let _ = writeln!(text, "      {subject:?}");
            }
            text.push_str("    ] }\n");
        }
        if answers {
            text.push_str("    allow_responses: true\n");
        }
        text.push_str("  }");
        text
    }

    fn subjects(self, names: &Names, queues: &[String]) -> Permissions {
        let (jobs, states, blobs) = (names.jobs(), names.states(), names.blobs());
        let (arguments, dead, workers) = (names.arguments(), names.dead(), names.workers());
        let streams = [&jobs, &states, &arguments, &blobs, &dead, &workers];
        let api = |request: &str, stream: &str| format!("$JS.API.{request}.{stream}");
        let subject = |tail: &str| names.subject(tail);
        let direct = |stream: &str| {
            let get = api("DIRECT.GET", stream);
            [format!("{get}.>"), get]
        };
        // Answers come to inboxes.
        let mut may = Permissions { subscribe: vec!["_INBOX.>".to_owned()], ..Permissions::default() };
        let publish = &mut may.publish;
        publish.push("$JS.API.STREAM.NAMES".to_owned());
        publish.extend(streams.iter().map(|stream| api("STREAM.INFO", stream)));
        publish.extend([&states, &arguments, &blobs, &workers].into_iter().flat_map(|stream| direct(stream)));
        publish.extend([
            subject("state.*.*"),
            subject("args.*.*.*"),
            subject("blob.*.*.*"),
            subject("ask.*"),
        ]);
        for stored in [&arguments, &blobs] {
            // What one of several servers does not have yet is asked for from their leader.
            publish.push(api("STREAM.MSG.GET", stored));
            // What a job has stored beside its record goes when it has ended.
            publish.push(api("STREAM.PURGE", stored));
        }
        let each_band = |of: &dyn Fn(&str, Band) -> String| -> Vec<String> {
            queues.iter().flat_map(|queue| Band::ALL.map(|band| of(queue, band))).collect()
        };
        let submits = if queues.is_empty() {
            vec![subject("job.*.*")]
        } else {
            each_band(&|queue, band| names.job(queue, band))
        };
        // By these streams the store is measured.
        let measures = ["CREATE", "DELETE", "INFO"].map(|it| format!("STREAM.{it}"));
        let measures = measures.iter().flat_map(|it| [api(it, &names.probe()), api(it, &names.measuring())]);
        match self {
            Self::Submitter => {
                publish.extend(submits);
                // A job that was cancelled while it waited leaves the queue.
                publish.push(api("STREAM.MSG.DELETE", &jobs));
                may.subscribe.extend([subject("event.*.*"), subject("item.*.*"), subject("ask.*")]);
                may.answers = true;
            }
            Self::Worker => {
                let consumers = if queues.is_empty() {
                    vec!["*".to_owned()]
                } else {
                    each_band(&|queue, band| Names::consumer(queue, band))
                };
                publish.extend(streams.iter().map(|stream| api("STREAM.CREATE", stream)));
                publish.extend(measures);
                for consumer in &consumers {
                    publish.push(format!("{}.{consumer}", api("CONSUMER.MSG.NEXT", &jobs)));
                    publish.push(format!("{}.{consumer}.>", api("CONSUMER.CREATE", &jobs)));
                    publish.push(format!("{}.{consumer}", api("CONSUMER.INFO", &jobs)));
                    publish.push(format!("$JS.ACK.{jobs}.{consumer}.>"));
                }
                publish.extend([subject("item.*.*"), subject("dead.*"), names.all_workers()]);
                // The arguments of a dead job, and the room for them.
                publish.extend([subject("dead.*.*.*"), "$JS.API.INFO".to_owned()]);
                publish.push(api("STREAM.PURGE", &workers));
                may.subscribe.push(subject("ask.*"));
                may.answers = true;
            }
            Self::Operator => {
                publish.extend(submits);
                publish.extend([&jobs, &dead].into_iter().flat_map(|stream| direct(stream)));
                for request in ["CREATE", "UPDATE", "PURGE", "DELETE", "MSG.DELETE"] {
                    publish.extend(streams.iter().map(|stream| api(&format!("STREAM.{request}"), stream)));
                }
                for request in ["CREATE", "INFO", "DELETE"] {
                    publish.push(format!("{}.>", api(&format!("CONSUMER.{request}"), &jobs)));
                }
                publish.push(api("CONSUMER.NAMES", &jobs));
                publish.extend([api("STREAM.MSG.GET", &dead), "$JS.API.INFO".to_owned()]);
                publish.extend(measures);
                may.subscribe.push(subject("event.*.*"));
            }
        }
        may.publish.sort();
        may.publish.dedup();
        may
    }
}
