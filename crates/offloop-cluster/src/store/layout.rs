//! The streams and consumers of layout 1: makes those that are missing, and checks those that are there.

use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::shares::{Share, Storage, Unmeasured};
use super::{Failure, ServerClock, Store, is_full, nanos, parse_time};
use crate::names::{Band, LAYOUT, Names};

/// The oldest server with a time to live for each message.
const OLDEST: (u64, u64) = (2, 11);

/// The number of jobs that a band of a queue holds by default.
pub(crate) const CAPACITY: u64 = 100_000;

/// The time for which the server drops a second copy of a job.
const DEDUPE: Duration = Duration::from_secs(60);

/// The time for which dead jobs are kept.
const DEAD: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The time after which a worker that tells nothing about itself is forgotten.
const PRESENCE: Duration = Duration::from_secs(15);

/// The number of attempts to make a stream in a store of which somebody else reserves a part at the same moment.
const ATTEMPTS: u32 = 5;

/// The number of replies that a worker may owe to the server, for each band. It is above what workers hold.
const MAX_ACK_PENDING: u64 = 100_000;

/// The number of requests of workers that may wait for jobs of a band. The server's default, 512, would refuse the others.
const MAX_WAITING: u64 = 100_000;

/// The wait for each answer about the layout, in multiples of that for others. Thousands of workers may start at once.
const PATIENCE: u32 = 5;

/// A cluster that this program cannot work with.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The server has not answered.
    #[error("the cluster's server does not answer: {0}")]
    Unreachable(String),
    /// The namespace was laid out by a newer version of offloop.
    #[error(
        "the namespace `{namespace}` has layout {found}, and this program knows layout {known}: update this program"
    )]
    Newer {
        /// The namespace.
        namespace: String,
        /// The version of the layout that was found.
        found: u32,
        /// The version that this build knows.
        known: u32,
    },
    /// The server is too old.
    #[error(
        "the cluster's server has version {found}, and NATS {}.{} or newer is needed: update the server",
        OLDEST.0, OLDEST.1
    )]
    OldServer {
        /// The server's version.
        found: String,
    },
    /// The server refuses what is needed.
    #[error("the cluster's server refuses {action}: {reason}")]
    Refused {
        /// The request.
        action: String,
        /// The server's answer.
        reason: String,
    },
}

#[derive(Deserialize)]
struct StreamNames {
    #[serde(default)]
    streams: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: Value,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    ts: Option<String>,
}

#[derive(Deserialize)]
struct ConsumerInfo {
    config: ConsumerTerms,
}

#[derive(Deserialize)]
struct ConsumerTerms {
    ack_wait: u64,
    #[serde(default)]
    max_waiting: u64,
}

impl Store {
    /// Makes the streams, and the consumers of these queues, or checks that they are there.
    ///
    /// `capacity` is the number of jobs that each band of a queue holds. If it is given, it replaces the present one.
    /// Returns the capacity that holds.
    pub(crate) async fn prepare(&self, queues: &[String], capacity: Option<u64>) -> Result<u64, LayoutError> {
        let names = self.names().clone();
        self.check_server().await?;
        let remember = nanos(self.settings().remember);
        let jobs = json!({
            "name": names.jobs(), "subjects": [names.all_jobs()], "retention": "workqueue", "storage": "file",
            "discard": "new", "discard_new_per_subject": true, "max_msgs_per_subject": capacity.unwrap_or(CAPACITY),
            "duplicate_window": nanos(DEDUPE), "allow_direct": true,
        });
        let found = self.make_stream(jobs, Share::Jobs, Storage::Unknown).await?;
        // All parties divide the same, also if several of them lay the namespace out at once.
        let storage = Share::Jobs.whole(limit_of(&found));
        let mut holds = found.get("max_msgs_per_subject").and_then(Value::as_u64).unwrap_or(CAPACITY);
        if let Some(wanted) = capacity.filter(|wanted| *wanted != holds) {
            let mut changed = found;
            changed["max_msgs_per_subject"] = wanted.into();
            self.stream_request("UPDATE", &changed).await?;
            holds = wanted;
        }
        let (source, destination) = names.announcement();
        let states = json!({
            "name": names.states(), "subjects": [names.all_states()], "retention": "limits", "storage": "file",
            "max_msgs_per_subject": 1, "allow_direct": true, "allow_msg_ttl": true,
            // A state that is forgotten leaves a mark, so that its job is not taken for a new one.
            "subject_delete_marker_ttl": remember, "allow_rollup_hdrs": true,
            "republish": { "src": source, "dest": destination },
        });
        let blobs = json!({
            "name": names.blobs(), "subjects": [names.all_blobs()], "retention": "limits", "storage": "file",
            "max_msgs_per_subject": 1, "allow_direct": true, "allow_msg_ttl": true, "max_age": remember,
            "discard": "new",
        });
        // Jobs that wait must not take the room of those that have a result.
        let mut arguments = blobs.clone();
        (arguments["name"], arguments["subjects"]) =
            (names.arguments().into(), json!([names.all_arguments()]));
        // If there is no room, the oldest go: the end of a job must not wait for it.
        let dead = json!({
            "name": names.dead(), "subjects": [names.all_dead(), names.all_dead_arguments()], "retention": "limits",
            "storage": "file", "max_msgs_per_subject": 1, "allow_direct": true, "max_age": nanos(DEAD),
            "discard": "old",
        });
        let workers = json!({
            "name": names.workers(), "subjects": [names.all_workers()], "retention": "limits", "storage": "file",
            "max_msgs_per_subject": 1, "allow_direct": true, "allow_rollup_hdrs": true, "discard": "new",
            "max_age": nanos(PRESENCE), "duplicate_window": nanos(PRESENCE),
        });
        let streams = [
            (states, Share::Rest),
            (arguments, Share::Arguments),
            (blobs, Share::Blobs),
            (dead, Share::Dead),
            (workers, Share::Rest),
        ];
        for (stream, share) in streams {
            self.make_stream(stream, share, storage).await?;
        }
        for queue in queues {
            for band in Band::ALL {
                self.make_consumer(queue, band).await?;
            }
        }
        Ok(holds)
    }

    /// Checks the server's version, and that nothing newer was laid out.
    async fn check_server(&self) -> Result<(), LayoutError> {
        let names = self.names();
        let request = json!({ "subject": names.any_layout() });
        let found: StreamNames = self
            .ask_about("STREAM.NAMES", &request)
            .await
            .map_err(|it| self.failed("to list its streams", it))?;
        // Only now there is a connection for certain.
        let version = self.0.client.server_info().version;
        let mut numbers = version.split('.').map(|part| part.parse().unwrap_or(0));
        if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OLDEST {
            return Err(LayoutError::OldServer { found: version });
        }
        let newest = found.streams.iter().flatten().filter_map(|stream| names.layout_of(stream)).max();
        match newest.filter(|newest| *newest > LAYOUT) {
            Some(found) => {
                let namespace = names.namespace().to_owned();
                Err(LayoutError::Newer { namespace, found, known: LAYOUT })
            }
            None => Ok(()),
        }
    }

    /// Makes a stream if it is not there. One who may not make streams can use those that are there. Returns its
    /// configuration.
    async fn make_stream(
        &self,
        mut configuration: Value,
        share: Share,
        storage: Storage,
    ) -> Result<Value, LayoutError> {
        configuration["num_replicas"] = self.0.replicas.into();
        let name = configuration["name"].as_str().unwrap_or_default().to_owned();
        let info = async || self.ask_about::<StreamInfo>(&format!("STREAM.INFO.{name}"), &Value::Null).await;
        let mut times_full = 0;
        for attempt in 1.. {
            match info().await {
                Ok(info) => return Ok(info.config),
                // 10059: there is no such stream.
                Err(Failure::Refused(error)) if error.err_code == 10059 => {}
                Err(failure) => return Err(self.failed(&format!("to tell about the stream {name}"), failure)),
            }
            let storage = match storage {
                Storage::Unknown => self.storage().await,
                known => Ok(known),
            };
            let storage = match storage {
                Ok(storage) => storage,
                Err(Unmeasured::Busy) if attempt < ATTEMPTS => {
                    self.pause_for_others().await;
                    continue;
                }
                Err(Unmeasured::Busy) => {
                    return Err(LayoutError::Unreachable("another party measures its store".to_owned()));
                }
                Err(Unmeasured::Failed(failure)) => {
                    return Err(self.failed("to tell what it can store", failure));
                }
            };
            // At last the stream gets no share, unless what is divided was said.
            let limit = share.of(storage).filter(|_| times_full < ATTEMPTS || self.0.storage.is_some());
            configuration["max_bytes"] = limit.map_or(json!(-1), Value::from);
            let made: Result<StreamInfo, _> =
                self.ask_about(&format!("STREAM.CREATE.{name}"), &configuration).await;
            match made {
                Ok(info) => return Ok(info.config),
                // Another party measures the store at this moment, or has laid out a namespace of its own.
                Err(Failure::Refused(error))
                    if is_full(error.err_code) && times_full <= ATTEMPTS && self.0.storage.is_none() =>
                {
                    times_full += 1;
                    self.pause_for_others().await;
                }
                // Another party may have made it meanwhile, with its capacity.
                Err(failure @ Failure::Refused(_)) => {
                    return match info().await {
                        Ok(info) => Ok(info.config),
                        Err(_) => Err(self.failed(&format!("the stream {name}"), failure)),
                    };
                }
                Err(failure) => return Err(self.failed(&format!("the stream {name}"), failure)),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Waits for other parties that lay a namespace out, not as long as all of them do.
    async fn pause_for_others(&self) {
        tokio::time::sleep(self.settings().pause.mul_f64(super::random())).await;
    }

    async fn stream_request(&self, verb: &str, configuration: &Value) -> Result<Value, LayoutError> {
        let name = configuration["name"].as_str().unwrap_or_default();
        let info: Result<StreamInfo, _> =
            self.ask_about(&format!("STREAM.{verb}.{name}"), configuration).await;
        info.map(|info| info.config).map_err(|it| self.failed(&format!("the stream {name}"), it))
    }

    /// Makes a request about the layout.
    pub(super) async fn ask_about<T: DeserializeOwned>(
        &self,
        method: &str,
        arguments: &Value,
    ) -> Result<T, Failure> {
        self.api_within(self.settings().answer * PATIENCE, method, arguments).await
    }

    /// Makes the consumer that leases the jobs of a band to workers, unless it is there with this lease.
    async fn make_consumer(&self, queue: &str, band: Band) -> Result<(), LayoutError> {
        let (stream, name) = (self.names().jobs(), Names::consumer(queue, band));
        let lease = nanos(self.settings().lease);
        // To ask is much cheaper for the server than to have it make what is there.
        let mut max_waiting = MAX_WAITING;
        match self.ask_about::<ConsumerInfo>(&format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null).await {
            Ok(info) if info.config.ack_wait == lease => return Ok(()),
            // That cannot be changed.
            Ok(info) => max_waiting = info.config.max_waiting,
            Err(Failure::Refused(_)) => {}
            Err(failure) => return Err(self.failed(&format!("to tell about the consumer {name}"), failure)),
        }
        let filter = self.names().job(queue, band);
        let request = json!({
            "stream_name": stream, "action": "",
            "config": {
                "durable_name": name, "name": name, "filter_subject": filter, "ack_policy": "explicit",
                "deliver_policy": "all", "replay_policy": "instant", "max_deliver": -1,
                "ack_wait": lease, "max_ack_pending": MAX_ACK_PENDING, "max_waiting": max_waiting,
            },
        });
        let method = format!("CONSUMER.CREATE.{stream}.{name}.{filter}");
        let made: Result<Value, _> = self.ask_about(&method, &request).await;
        made.map(drop).map_err(|it| self.failed(&format!("the consumer {name}"), it))
    }

    /// Reads the server's clock. Returns whether there was an answer.
    pub(super) async fn read_clock(&self) -> bool {
        let method = format!("STREAM.INFO.{}", self.names().states());
        let Ok(info) = self.ask_about::<StreamInfo>(&method, &Value::Null).await else { return false };
        let Some(nanos) = info.ts.as_deref().and_then(parse_time) else { return false };
        let clock = ServerClock { nanos, at: std::time::Instant::now() };
        *self.0.clock.lock().expect("nothing panics in here") = Some(clock);
        true
    }

    /// Returns how long a stream has been there.
    pub(super) async fn age_of(&self, stream: &str) -> Result<Duration, Failure> {
        let info: StreamInfo = self.ask_about(&format!("STREAM.INFO.{stream}"), &Value::Null).await?;
        let [now, created] = [info.ts, info.created].map(|time| time.as_deref().and_then(parse_time));
        Ok(Duration::from_nanos(now.zip(created).map_or(0, |(now, created)| now.saturating_sub(created))))
    }

    /// Returns the bytes that a stream may hold. `None`: it has no limit.
    pub(super) async fn capacity_of(&self, stream: &str) -> Result<Option<u64>, Failure> {
        let info: StreamInfo = self.api(&format!("STREAM.INFO.{stream}"), &Value::Null).await?;
        Ok(limit_of(&info.config))
    }

    fn failed(&self, action: &str, failure: Failure) -> LayoutError {
        let reason = match failure {
            Failure::Silent => {
                let link = self.0.link.borrow();
                let reason = if link.reason.is_empty() { "no answer in time" } else { &link.reason };
                return LayoutError::Unreachable(reason.to_owned());
            }
            Failure::Nobody => "JetStream is not enabled there".to_owned(),
            Failure::TooLarge => "the request is too large".to_owned(),
            // The servers have not found each other yet (10004, 10005), or have no leader (10007 to 10009, 10041).
            Failure::Refused(error) if matches!(error.err_code, 10004 | 10005 | 10007..=10009 | 10041) => {
                return LayoutError::Unreachable(error.description);
            }
            Failure::Refused(error) => error.description,
        };
        LayoutError::Refused { action: action.to_owned(), reason }
    }
}

/// Returns the bytes that a stream with this configuration may hold. `None`: it has no limit.
fn limit_of(configuration: &Value) -> Option<u64> {
    configuration["max_bytes"].as_u64().filter(|room| *room > 0)
}
