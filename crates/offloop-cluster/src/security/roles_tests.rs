//! The roles on a real server, which `OFFLOOP_NATS_SERVER` or `PATH` names. Where there is none, the tests say so and pass.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::Bytes;

use super::Role;
use crate::connection::{Connection, Credentials};
use crate::embedded::SERVER_VARIABLE;
use crate::names::{Band, Part, Place};
use crate::protocol::{Publication, Written};
use crate::records::{Ask, Item, Outcome, Presence};
use crate::store::{JobHeaders, Reply, Store};
use crate::{Ulid, network};

const GUARD: Duration = Duration::from_secs(60);
const TTL: Duration = Duration::from_secs(60);

/// A server with a user of each role in the namespace `test`, whose names and passwords are those of the roles.
struct Server {
    process: Child,
    directory: PathBuf,
    address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

impl Server {
    /// Starts a server whose users reach these queues. `None` where none is installed.
    fn start(queues: &[&str]) -> Option<Self> {
        let program = std::env::var_os(SERVER_VARIABLE).unwrap_or_else(|| "nats-server".into());
        let directory = std::env::temp_dir().join(format!("offloop-roles-{}", Ulid::new()));
        std::fs::create_dir(&directory).unwrap();
        let store = directory.join("store");
        let queues: Vec<String> = queues.iter().map(|queue| (*queue).to_owned()).collect();
        let mut text = format!(
            "listen: \"127.0.0.1:-1\"\njetstream {{ store_dir: {:?} }}\nauthorization {{ users = [\n",
            store.display().to_string()
        );
        for role in Role::ALL {
            let (name, permissions) = (role.as_str(), role.permissions("test", &queues));
            let _ = writeln!(text, "{{ user: {name}, password: {name}, {permissions} }}");
        }
        text.push_str("] }\n");
        let file = directory.join("server.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        let spawned = command.arg("-c").arg(file).stdin(Stdio::null()).stderr(Stdio::piped()).spawn();
        let Ok(mut process) = spawned else {
            eprintln!("skipped: no NATS server is installed");
            let _ = std::fs::remove_dir_all(&directory);
            return None;
        };
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut address = None;
        for line in lines.by_ref() {
            address = address.or_else(|| line.split_once("connections on ")?.1.trim().parse().ok());
            if line.contains("Server is ready") {
                break;
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.expect("the server is ready: the permissions can be read");
        Some(Self { process, directory, address })
    }

    fn connection(&self, role: Role) -> Connection {
        let name = role.as_str().to_owned();
        let credentials = Credentials::User { user: name.clone(), password: name };
        let url = format!("nats://{}", self.address);
        Connection::to(url).credentials(credentials).namespace("test")
    }

    /// Returns what the server says to these lines of its protocol, as a user of this role.
    fn answers(&self, role: Role, lines: &str) -> Vec<String> {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        let name = role.as_str();
        let login = format!("CONNECT {{\"user\":\"{name}\",\"pass\":\"{name}\",\"verbose\":false}}\r\n");
        stream.write_all(format!("{login}{lines}PING\r\n").as_bytes()).unwrap();
        let lines = BufReader::new(stream).lines().map(Result::unwrap);
        lines.take_while(|line| line != "PONG").filter(|line| !line.starts_with("INFO ")).collect()
    }
}

/// Runs a test on the network's thread.
fn run<F: Future<Output = ()> + Send + 'static>(test: F) {
    let done = network::block_on(async { tokio::time::timeout(GUARD, test).await.expect("it ends in time") });
    done.expect("the test has not panicked");
}

#[test]
fn each_role_can_do_what_it_needs() {
    let Some(server) = Server::start(&["mail"]) else { return };
    let connections = Role::ALL.map(|role| server.connection(role));
    run(async move {
        let [submitter, worker, operator] = connections;
        let (submitter, worker, operator) = (
            Store::connect(&submitter).await.unwrap(),
            Store::connect(&worker).await.unwrap(),
            Store::connect(&operator).await.unwrap(),
        );
        // A worker measures the store and makes the streams; a submitter finds them.
        worker.prepare(&["mail".to_owned()], None).await.unwrap();
        assert!(worker.has_shares().await);
        submitter.prepare(&[], None).await.unwrap();
        operator.prepare(&[], Some(5)).await.unwrap();

        // A job is submitted, taken, claimed, and ended.
        let (client, me, job) = (Ulid::new(), Ulid::new(), Ulid::new());
        let place = Place { client: Some(client), job };
        let mut events = submitter.events(client).await.unwrap();
        let mut items = submitter.items(client).await.unwrap();
        let mut asked = worker.asked(me).await.unwrap();
        let blob = submitter.put_blob(job, Part::Arguments, Bytes::from_static(b"args"), TTL).await.unwrap();
        let record = Bytes::from_static(b"record");
        let published = submitter.publish("mail", Band::Normal, job, record, &JobHeaders::default()).await;
        assert!(matches!(published, Publication::Stored(_)), "{published:?}");
        let mut pull = worker.pull("mail", Band::Normal);
        let message = pull.next(1, GUARD).await.pop().expect("the job is delivered");
        message.progress().await;
        assert_eq!(worker.get_blob(job, Part::Arguments, &blob).await.unwrap(), b"args");
        let Written::Stored(claim) = worker.write(&place, 0, b"claim".to_vec(), TTL).await else {
            panic!("the claim is refused");
        };
        assert_eq!(&*submitter.read(&place).await.unwrap().unwrap().bytes, b"claim");
        worker.send_item(client, job, Item::new(1, 0, vec![7]).encode().unwrap().into()).await;
        assert_eq!(items.next().await.unwrap().1.item, [7]);
        let ended = worker.write(&place, claim, b"end".to_vec(), TTL).await;
        assert!(matches!(ended, Written::Stored(_)), "{ended:?}");
        while &*events.next().await.unwrap().bytes != b"end" {}
        worker.delete_blob(job, Part::Arguments).await;
        message.ack().await;

        // It tells of itself, and answers.
        let presence = Presence { worker: me, ..Presence::default() };
        assert!(worker.announce(&presence).await);
        let answers = tokio::spawn(async move { asked.next().await.unwrap().respond(b"yes".to_vec()).await });
        let reply = submitter.ask(me, &Ask::Has { id: job }, GUARD).await;
        assert!(matches!(reply, Reply::Answer(answer) if &*answer == b"yes"));
        answers.await.unwrap();
        assert_eq!(submitter.workers().await.unwrap().len(), 1);

        // What waits can be deleted; what is dead is seen, and put into its queue again.
        let second = Ulid::new();
        let record = Bytes::from_static(b"second");
        let published = submitter.publish("mail", Band::Low, second, record, &JobHeaders::default()).await;
        let Publication::Stored(message) = published else { panic!("it is refused") };
        assert!(submitter.delete(message).await);
        assert!(worker.bury(job, "mail", Bytes::from_static(b"dead"), Outcome::Lost).await);
        assert_eq!(operator.dead().await.unwrap().len(), 1);
        assert!(operator.queues().await.is_some());
        let record = Bytes::from_static(b"again");
        let published =
            operator.publish("mail", Band::High, Ulid::new(), record, &JobHeaders::default()).await;
        assert!(matches!(published, Publication::Stored(_)));
        assert!(operator.forget_dead(job).await);
        worker.leave(me).await;
        assert_eq!(operator.workers().await.unwrap().len(), 0);
    });
}

#[test]
fn no_role_can_do_more() {
    let Some(server) = Server::start(&["mail"]) else { return };
    let refuses = |role: Role, verb: &str, subject: &str| {
        let line = match verb {
            "PUB" => format!("PUB {subject} 0\r\n\r\n"),
            _ => format!("SUB {subject} 1\r\n"),
        };
        let answers = server.answers(role, &line);
        let is_refused = answers.iter().any(|line| line.contains("Permissions Violation"));
        assert!(is_refused, "{}: {verb} {subject}: {answers:?}", role.as_str());
    };
    let jobs = "OFFLOOP1_test_JOBS";
    for role in Role::ALL {
        for subject in [
            "offloop.1.other.job.mail.normal",
            "offloop.1.other.state.a.b",
            "offloop.1.test.job.secret.normal",
            "offloop.1.test.event.a.b",
            "$JS.API.STREAM.INFO.OFFLOOP1_other_JOBS",
            "$JS.API.STREAM.DELETE.SOMEBODY_ELSES",
            "$JS.API.STREAM.LIST",
            "$SYS.REQ.SERVER.PING",
            "anything.else",
        ] {
            refuses(role, "PUB", subject);
        }
        for subject in
            [">", "offloop.>", "offloop.1.test.job.>", "offloop.1.test.state.*.*", "$SYS.>", "$JS.API.>"]
        {
            refuses(role, "SUB", subject);
        }
    }
    for subject in [
        format!("$JS.API.CONSUMER.MSG.NEXT.{jobs}.mail-normal"),
        format!("$JS.API.CONSUMER.CREATE.{jobs}.mail-normal.offloop.1.test.job.mail.normal"),
        format!("$JS.API.STREAM.CREATE.{jobs}"),
        format!("$JS.API.STREAM.PURGE.{jobs}"),
        format!("$JS.API.STREAM.DELETE.{jobs}"),
        format!("$JS.API.DIRECT.GET.{jobs}"),
        format!("$JS.ACK.{jobs}.mail-normal.1.1.1.1.0"),
        "offloop.1.test.item.a.b".to_owned(),
        "offloop.1.test.dead.a".to_owned(),
        "$KV.OFFLOOP1_test_WORKERS.a".to_owned(),
    ] {
        refuses(Role::Submitter, "PUB", &subject);
    }
    for subject in [
        "offloop.1.test.job.mail.normal".to_owned(),
        format!("$JS.API.STREAM.MSG.DELETE.{jobs}"),
        format!("$JS.API.STREAM.PURGE.{jobs}"),
        format!("$JS.API.STREAM.DELETE.{jobs}"),
        format!("$JS.API.STREAM.UPDATE.{jobs}"),
        format!("$JS.API.CONSUMER.MSG.NEXT.{jobs}.secret-normal"),
        format!("$JS.ACK.{jobs}.secret-normal.1.1.1.1.0"),
        "$JS.API.STREAM.PURGE.OFFLOOP1_test_STATE".to_owned(),
    ] {
        refuses(Role::Worker, "PUB", &subject);
    }
    refuses(Role::Worker, "SUB", "offloop.1.test.event.*.*");
    refuses(Role::Operator, "PUB", &format!("$JS.API.CONSUMER.MSG.NEXT.{jobs}.mail-normal"));
}
