//! The state in which a worker begins, whatever the program was that started it, and what a start that fails reports.

mod process_support;

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use offloop::ProcessPool;
use process_support::{add, pool};

offloop::init_tests!();

/// A program of this crate's: one of its ignored tests.
fn program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--ignored", "--nocapture"]);
    command
}

/// Runs a program whose last line is `printed: …`, and returns the rest of that line.
#[track_caller]
fn printed(mut command: Command) -> String {
    let output = command.output().unwrap();
    let text = text(&output);
    let line =
        text.lines().rev().find_map(|line| line.split_once("printed: ")).map(|(_, line)| line.to_owned());
    line.unwrap_or_else(|| panic!("{command:?}: {text}"))
}

fn text(output: &Output) -> String {
    let streams = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    format!("{}\n{}\n{}", output.status, streams[0], streams[1])
}

/// Returns a line of this process's status.
#[offloop::task]
fn status_line(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap().trim().to_owned()
}

#[offloop::task]
fn links_of_standard_descriptors() -> [String; 3] {
    [0, 1, 2].map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string())
}

/// Runs `sleep` for 30 s, ends it by SIGTERM, and returns the signal that it reports to have died of.
#[offloop::task]
fn signal_that_ends_a_program() -> Option<i32> {
    let mut child = Command::new("sleep").arg("30").spawn().unwrap();
    // SAFETY: plain numbers; the child has not been waited for.
    unsafe { libc::kill(i32::try_from(child.id()).unwrap(), libc::SIGTERM) };
    std::thread::sleep(Duration::from_millis(200));
    let ended = child.try_wait().unwrap();
    let _ = child.kill();
    ended.or(child.wait().ok()).and_then(|status| status.signal())
}

#[offloop::task]
fn spin() {
    loop {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Blocks or ignores SIGTERM and others in this whole process. To be called while there is one other thread.
fn refuse_signals(how: &str) {
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGCHLD, libc::SIGRTMIN()] {
        // SAFETY: the set is a live local, and the default and ignoring actions run no code.
        unsafe {
            if how == "ignored" {
                libc::signal(signal, libc::SIG_IGN);
            } else {
                let mut set = std::mem::zeroed();
                libc::sigemptyset(&raw mut set);
                libc::sigaddset(&raw mut set, signal);
                libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            }
        }
    }
}

#[test]
fn a_worker_neither_blocks_nor_ignores_signals_that_its_program_does() {
    for how in ["blocked", "ignored"] {
        let mut command = program("runs_a_pool_in_a_program_that_refuses_signals");
        command.env("HOW", how);
        assert_eq!(printed(command), "as usual", "{how}");
    }
}

#[test]
#[ignore = "run by a_worker_neither_blocks_nor_ignores_signals_that_its_program_does"]
fn runs_a_pool_in_a_program_that_refuses_signals() {
    refuse_signals(&std::env::var("HOW").unwrap());
    // Longer than the test may take: if SIGTERM did not end the worker, it would.
    let pool = ProcessPool::builder().max_workers(1).grace(Duration::from_secs(1000)).build().unwrap();
    assert_eq!(pool.run(status_line.with("SigBlk:")).wait().unwrap(), "0000000000000000");
    // SIGPIPE is ignored by Rust itself, SIGTTOU by the worker, which is in the background of its terminal, and 32 and
    // 33 are left to the C library.
    let ignored = u64::from_str_radix(&pool.run(status_line.with("SigIgn:")).wait().unwrap(), 16).unwrap();
    assert_eq!(ignored & !(1 << (libc::SIGPIPE - 1) | 1 << (libc::SIGTTOU - 1) | 3 << 31), 0, "{ignored:x}");
    assert_eq!(pool.run(signal_that_ends_a_program.with()).wait().unwrap(), Some(libc::SIGTERM));
    let running = pool.run(spin.with());
    while running.state() != offloop::JobState::Running {
        std::thread::yield_now();
    }
    drop(running);
    assert_eq!(pool.run(add.with(1, 2)).wait().unwrap(), 3);
    pool.run(spin.with()).detach();
    pool.shutdown(Duration::ZERO).wait().unwrap();
    println!("printed: as usual");
}

#[test]
fn a_pool_works_in_a_program_whose_standard_descriptors_are_closed() {
    for closed in [vec![2], vec![1], vec![0, 1, 2]] {
        let mut command = program("runs_a_pool_after_it_has_closed_standard_descriptors");
        let report =
            std::env::temp_dir().join(format!("offloop-closed-{}-{}", std::process::id(), closed.len()));
        let list = closed.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let status = command.env("CLOSED", list).env("REPORT", &report).output().unwrap().status;
        let written = std::fs::read_to_string(&report).unwrap_or_default();
        let _ = std::fs::remove_file(&report);
        assert_eq!(written, "as usual", "{closed:?}: {status}");
    }
}

#[test]
#[ignore = "run by a_pool_works_in_a_program_whose_standard_descriptors_are_closed"]
fn runs_a_pool_after_it_has_closed_standard_descriptors() {
    let closed = std::env::var("CLOSED").unwrap();
    let closed: Vec<i32> = closed.split(',').map(|it| it.parse().unwrap()).collect();
    for descriptor in &closed {
        // SAFETY: nothing in this program relies on its standard descriptors from here on.
        unsafe { libc::close(*descriptor) };
    }
    // Without a tail of standard error the worker would inherit descriptor 2.
    let pool = ProcessPool::builder().max_workers(1).stderr_tail(0).build().unwrap();
    let links = pool.run(links_of_standard_descriptors.with()).wait().unwrap();
    let of_this = [0, 1, 2].map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap());
    for descriptor in closed {
        let at = usize::try_from(descriptor).unwrap();
        assert_eq!(links[at], "/dev/null");
        assert_eq!(of_this[at].to_str(), Some("/dev/null"));
    }
    std::fs::write(std::env::var("REPORT").unwrap(), "as usual").unwrap();
}

#[offloop::task]
fn affinity_and_policy() -> (String, i32) {
    // SAFETY: plain numbers; 0 is this thread.
    (status_line("Cpus_allowed_list:"), unsafe { libc::sched_getscheduler(0) })
}

#[test]
fn a_worker_has_the_affinity_of_the_process_and_not_of_the_thread_that_built_the_pool() {
    let usual = affinity_and_policy();
    std::thread::spawn(move || {
        // SAFETY: the sets are live locals, and each call changes this thread alone.
        unsafe {
            let mut cores: libc::cpu_set_t = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&cores), &raw mut cores), 0);
            let last = (0..1024).rev().find(|core| libc::CPU_ISSET(*core, &cores)).unwrap();
            libc::CPU_ZERO(&mut cores);
            libc::CPU_SET(last, &mut cores);
            assert_eq!(libc::sched_setaffinity(0, size_of_val(&cores), &raw const cores), 0);
            let parameters: libc::sched_param = std::mem::zeroed();
            assert_eq!(libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters), 0);
        }
        assert_eq!(pool(1).run(affinity_and_policy.with()).wait().unwrap(), usual);
    })
    .join()
    .unwrap();
}

#[test]
fn a_program_that_the_dynamic_loader_was_called_with_starts_its_workers_in_the_same_way() {
    let Some(loader) = loader() else { return };
    let mut command = Command::new(loader);
    command.args(["--inhibit-cache", "./processes_start-link"]);
    // By a relative path, from a directory that the workers' is not.
    let folder = tempfile();
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), folder.join("processes_start-link"))
        .unwrap();
    command.current_dir(&folder).args(["--exact", "adds_in_a_worker_elsewhere", "--ignored", "--nocapture"]);
    let sum = printed(command);
    std::fs::remove_dir_all(folder).unwrap();
    assert_eq!(sum, "3");
}

fn tempfile() -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("offloop-start-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns the path of the dynamic loader that this program names, if it is a file.
fn loader() -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let loader =
        maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|it| it.contains("/ld-")))?;
    Some(loader.to_owned())
}

#[test]
#[ignore = "run by other tests, in programs that are started in unusual ways"]
fn adds_in_a_worker_elsewhere() {
    let pool = ProcessPool::builder().max_workers(1).current_dir("/").build().unwrap();
    match pool.run(add.with(1, 2)).wait() {
        Ok(sum) => println!("printed: {sum}"),
        Err(error) => println!("printed: {error}"),
    }
}

#[test]
fn a_program_that_has_inherited_the_marker_of_a_worker_runs_as_usual() {
    let mut program = program("adds_in_a_worker_elsewhere");
    let output = program.env("OFFLOOP_WORKER", "1").stdin(Stdio::null()).output().unwrap();
    let text = text(&output);
    assert!(output.status.success() && text.contains("printed: 3"), "{text}");
}

#[test]
fn a_program_whose_marker_is_set_by_hand_says_so_and_fails() {
    let own = std::process::id().to_string();
    for (value, reason) in [("yes", "remove it from the environment"), (&own, "names its parent process")] {
        let output = program("adds_in_a_worker_elsewhere")
            .env("OFFLOOP_WORKER", value)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = text(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("OFFLOOP_WORKER") && text.contains(reason), "{text}");
    }
}

/// Makes a system call fail with an error in this process and its children, from the `execve` on.
fn deny(command: &mut Command, call: libc::c_long, errno: i32) {
    let statement = |code: u32, jump_true, jump_false, value| libc::sock_filter {
        code: u16::try_from(code).unwrap(),
        jt: jump_true,
        jf: jump_false,
        k: value,
    };
    let allow = libc::SECCOMP_RET_ALLOW;
    let refuse = libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap();
    let program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, u32::try_from(call).unwrap()),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, refuse),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, allow),
    ];
    let install = move || {
        let mut program = program;
        let filter = libc::sock_fprog { len: 4, filter: program.as_mut_ptr() };
        // SAFETY: the filter points to four statements that outlive the calls.
        let failed = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
                || libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter, 0, 0) != 0
        };
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes two system calls and allocates nothing.
    unsafe { command.pre_exec(install) };
}

#[test]
fn a_system_call_that_is_refused_is_named_with_what_to_allow() {
    let calls = [
        (libc::SYS_memfd_create, "memfd_create"),
        (libc::SYS_pidfd_open, "pidfd_open"),
        (libc::SYS_socketpair, "socketpair"),
        (libc::SYS_prctl, "prctl(PR_SET_PDEATHSIG)"),
    ];
    for (call, name) in calls {
        for errno in [libc::EPERM, libc::ENOSYS] {
            let mut command = program("adds_in_a_worker_elsewhere");
            deny(&mut command, call, errno);
            let text = printed(command);
            assert!(text.contains(&format!("{name} failed: ")), "{text}");
            assert!(text.contains("seccomp"), "{text}");
        }
    }
    // This one is needed before there is a pool.
    let mut command = program("adds_in_a_worker_elsewhere");
    deny(&mut command, libc::SYS_eventfd2, libc::EPERM);
    let output = text(&command.output().unwrap());
    assert!(output.contains("eventfd2 failed: "), "{output}");
}

#[test]
fn without_proc_the_reason_names_proc() {
    // Needs a mount namespace, and so root or unprivileged user namespaces; skipped where there are none.
    let script = "mount -t tmpfs none /proc && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", script, "sh"]);
    let mut probe = Command::new("unshare");
    probe.args(["--map-root-user", "--mount", "sh", "-c", script, "sh", "true"]);
    if !probe.output().is_ok_and(|output| output.status.success()) {
        return;
    }
    command.arg(std::env::current_exe().unwrap());
    command.args(["--exact", "adds_in_a_worker_elsewhere", "--ignored", "--nocapture"]);
    let text = printed(command);
    assert!(text.contains("/proc"), "{text}");
    assert!(text.contains("mount"), "{text}");
}

#[test]
fn a_working_directory_that_is_missing_is_named() {
    let pool = ProcessPool::builder().max_workers(1).current_dir("/nonexistent").build().unwrap();
    let error = pool.run(add.with(1, 2)).wait().unwrap_err().to_string();
    assert!(error.contains("working directory /nonexistent cannot be used"), "{error}");
}

#[test]
fn a_worker_that_did_not_come_up_is_reported_with_what_it_wrote() {
    let pool = ProcessPool::builder().max_workers(1).cpu_affinity([1000]).build().unwrap();
    let error = pool.run(add.with(1, 2)).wait().unwrap_err().to_string();
    assert!(error.contains("sched_setaffinity (the option cpu_affinity) failed"), "{error}");
    assert!(!error.contains("offloop::init()"), "{error}");
}

#[test]
fn a_pool_without_room_for_any_call_is_refused() {
    let error = ProcessPool::builder().max_payload(0).build().unwrap_err().to_string();
    assert!(error.contains("max_payload is 0"), "{error}");
}

/// Set by constructors, of which some are called after the one that serves a worker.
static CONSTRUCTED: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

macro_rules! constructors {
    ($($name:ident $bit:literal),*) => {
        $(mod $name {
            extern "C" fn construct() {
                super::CONSTRUCTED.fetch_or(1 << $bit, std::sync::atomic::Ordering::Relaxed);
            }

            // SAFETY: the loader calls the functions of this section, with this signature, before `main`.
            #[used]
            #[unsafe(link_section = ".init_array")]
            static CONSTRUCTOR: extern "C" fn() = construct;
        })*
    };
}
constructors!(alpha 0, beta 1, gamma 2, delta 3, epsilon 4, zeta 5, eta 6, theta 7);

#[offloop::task]
fn constructed() -> u32 {
    CONSTRUCTED.load(std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn jobs_in_tests_find_what_the_programs_constructors_have_made() {
    assert_eq!(constructed(), 0xff);
    assert_eq!(pool(1).run(constructed.with()).wait().unwrap(), 0xff);
}
