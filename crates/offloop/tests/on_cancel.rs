//! Callbacks for the moment when a job is asked to stop: when they are called, on which thread, and when not.

mod common;

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use common::{Count, GIVE_UP, Gate, end, eventually, single};
use offloop::job::{self, on_cancel};
use offloop::{ErrorKind, Handle, ThreadPool, prepare};

/// Starts a job that ends when its callback is called, and that sends the name of the thread that called it.
fn until_called_back(pool: &ThreadPool) -> (Handle<()>, mpsc::Receiver<String>) {
    let (inform, informed) = mpsc::channel();
    let running = Gate::new();
    let start = running.clone();
    let handle = pool.run(move || {
        let (tell, told) = mpsc::channel();
        let _hook = on_cancel(move || {
            let thread = thread::current();
            tell.send(thread.name().unwrap_or_default().to_owned()).unwrap();
        });
        start.open();
        inform.send(told.recv_timeout(GIVE_UP).unwrap()).unwrap();
    });
    running.pass();
    (handle, informed)
}

fn add(count: &Count) {
    count.add();
}

#[track_caller]
fn was_called_back(informed: &mpsc::Receiver<String>) {
    let thread = informed.recv_timeout(GIVE_UP).expect("the callback is called");
    assert!(thread.starts_with("offloop-cancel"), "called on {thread:?}");
}

#[test]
fn a_cancelled_handle_calls_back_on_a_thread_of_its_own() {
    let (handle, informed) = until_called_back(&single());
    assert!(handle.cancel());
    was_called_back(&informed);
}

#[test]
fn a_dropped_handle_calls_back() {
    let (handle, informed) = until_called_back(&single());
    drop(handle);
    was_called_back(&informed);
}

#[test]
fn a_timeout_calls_back() {
    let (handle, informed) = until_called_back(&single());
    let error = end(handle.timeout(Duration::from_millis(10))).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::RunTimeout(_)), "{error:?}");
    was_called_back(&informed);
}

#[test]
fn a_shutdown_calls_back_so_that_the_job_is_not_stuck() {
    let pool = single();
    let (handle, informed) = until_called_back(&pool);
    let report = end(pool.shutdown(Duration::ZERO)).unwrap();
    was_called_back(&informed);
    assert_eq!((report.cancelled, report.stuck.len()), (1, 0));
    assert!(end(handle).unwrap_err().is_cancelled());
}

#[test]
fn cancelling_does_not_wait_for_the_callback() {
    let pool = single();
    let (running, gate) = (Gate::new(), Gate::new());
    let (start, pass) = (running.clone(), gate.clone());
    let handle = pool.run(move || {
        let over = Gate::new();
        let done = over.clone();
        let _hook = on_cancel(move || {
            pass.pass();
            done.open();
        });
        start.open();
        over.pass();
    });
    running.pass();
    handle.cancel();
    gate.open(); // would come too late if the callback ran in `cancel`
    end(pool.run(|| ())).unwrap();
}

#[test]
fn a_guard_that_is_dropped_waits_for_a_callback_that_has_begun() {
    let pool = single();
    let running = Gate::new();
    let start = running.clone();
    let (send, seen) = mpsc::channel();
    let handle = pool.run(move || {
        let (entered, done) = (Gate::new(), Count::new());
        let (enter, finish) = (entered.clone(), done.clone());
        let hook = on_cancel(move || {
            enter.open();
            thread::sleep(Duration::from_millis(50));
            finish.add();
        });
        start.open();
        entered.pass();
        drop(hook);
        send.send(done.get()).unwrap();
    });
    running.pass();
    drop(handle);
    assert_eq!(seen.recv_timeout(GIVE_UP).unwrap(), 1);
}

#[test]
fn after_its_guard_is_dropped_a_callback_is_not_called() {
    let pool = single();
    let (running, gate, called) = (Gate::new(), Gate::new(), Count::new());
    let (start, pass, count) = (running.clone(), gate.clone(), called.clone());
    let handle = pool.run(move || {
        drop(on_cancel(move || add(&count)));
        start.open();
        pass.pass();
    });
    running.pass();
    drop(handle);
    gate.open();
    end(pool.run(|| ())).unwrap();
    assert_eq!(called.get(), 0);
}

#[test]
fn a_job_that_was_asked_to_stop_before_it_adds_a_callback_is_called_back() {
    let pool = single();
    let running = Gate::new();
    let start = running.clone();
    let (send, seen) = mpsc::channel();
    let handle = pool.run(move || {
        start.open();
        while !job::is_cancelled() {
            thread::yield_now();
        }
        let (tell, told) = mpsc::channel();
        let returned = Gate::new();
        let pass = returned.clone();
        let _hook = on_cancel(move || {
            pass.pass();
            tell.send(thread::current().name().unwrap_or_default().to_owned()).unwrap();
        });
        returned.open(); // would come too late if the callback ran in `on_cancel`
        send.send(told.recv_timeout(GIVE_UP).unwrap()).unwrap();
    });
    running.pass();
    drop(handle);
    was_called_back(&seen);
}

#[test]
fn a_job_that_ends_by_itself_drops_its_callbacks_uncalled() {
    let pool = single();
    let (called, dropped) = (Count::new(), Count::new());
    for forgotten in [false, true] {
        for panics in [false, true] {
            let (count, on_drop) = (called.clone(), dropped.on_drop());
            let result = end(pool.run(move || {
                let hook = on_cancel(move || {
                    let _kept = &on_drop;
                    count.add();
                });
                if forgotten {
                    std::mem::forget(hook);
                }
                assert!(!panics, "on purpose");
            }));
            assert_eq!(result.is_err(), panics);
        }
    }
    assert_eq!((called.get(), dropped.get()), (0, 4));
}

#[test]
fn outside_of_a_job_a_callback_is_dropped_uncalled() {
    let (called, dropped) = (Count::new(), Count::new());
    let (count, on_drop) = (called.clone(), dropped.on_drop());
    let _hook = on_cancel(move || {
        let _kept = &on_drop;
        count.add();
    });
    assert_eq!((called.get(), dropped.get()), (0, 1));
}

#[test]
fn a_panic_of_a_callback_harms_no_other() {
    let pool = single();
    let running = Gate::new();
    let start = running.clone();
    let (send, seen) = mpsc::channel();
    let handle = pool.run(move || {
        let (tell, told) = mpsc::channel();
        let _bad = on_cancel(|| panic!("in a callback"));
        let _good = on_cancel(move || tell.send(()).unwrap());
        start.open();
        send.send(told.recv_timeout(GIVE_UP)).unwrap();
    });
    running.pass();
    drop(handle);
    assert_eq!(
        seen.recv_timeout(GIVE_UP).unwrap(),
        Ok(()),
        "after one callback had panicked, the other was not called"
    );
    end(pool.run(|| ())).unwrap();
}

#[test]
fn a_callback_may_drop_its_own_guard() {
    let pool = single();
    let running = Gate::new();
    let start = running.clone();
    let handle = pool.run(move || {
        let (give, given) = mpsc::channel();
        let (tell, told) = mpsc::channel();
        let hook = on_cancel(move || {
            drop(given.recv_timeout(GIVE_UP).unwrap());
            tell.send(()).unwrap();
        });
        give.send(hook).unwrap();
        start.open();
        told.recv_timeout(GIVE_UP).unwrap();
    });
    running.pass();
    drop(handle);
    end(pool.run(|| ())).unwrap();
}

#[test]
fn a_callback_may_use_the_pool_whose_only_thread_waits_for_it() {
    let pool = single();
    let (running, inner) = (Gate::new(), pool.clone());
    let start = running.clone();
    let (send, seen) = mpsc::channel();
    let handle = pool.run(move || {
        let entered = Gate::new();
        let enter = entered.clone();
        let hook = on_cancel(move || {
            enter.open();
            send.send(end(inner.run(|| 7))).unwrap();
        });
        start.open();
        entered.pass();
        drop(hook);
    });
    running.pass();
    drop(handle);
    assert_eq!(seen.recv_timeout(GIVE_UP).unwrap().unwrap(), 7);
}

#[test]
fn each_of_many_calls_has_its_own_callback() {
    let pool = single();
    let (running, called) = (Gate::new(), Count::new());
    let (start, calls) = (running.clone(), called.clone());
    let handle = pool.run(move || {
        for _ in 0..1000 {
            let count = calls.clone();
            drop(on_cancel(move || add(&count)));
        }
        let (tell, told) = mpsc::channel();
        let _hook = on_cancel(move || tell.send(()).unwrap());
        start.open();
        told.recv_timeout(GIVE_UP).unwrap();
    });
    running.pass();
    drop(handle);
    end(pool.run(|| ())).unwrap();
    assert_eq!(called.get(), 0, "callbacks of calls that were over");
}

/// The cancel, the callback and the end of the guard may come in any order. The promise holds in each.
#[test]
fn a_cancel_while_the_guard_is_dropped_calls_at_most_once_and_never_late() {
    let pool = ThreadPool::builder().max_workers(2).build().unwrap();
    let late = Count::new();
    for round in 0..2000_u32 {
        let (running, lates) = (Gate::new(), late.clone());
        let start = running.clone();
        let limit = Duration::from_micros(u64::from(round % 50));
        let work = prepare(move || {
            let called = Count::new();
            let count = called.clone();
            let hook = on_cancel(move || add(&count));
            start.open();
            for _ in 0..round % 100 {
                std::hint::spin_loop();
            }
            drop(hook);
            let before = called.get();
            assert!(before <= 1);
            thread::yield_now();
            if called.get() != before {
                lates.add();
            }
        });
        let handle = pool.run(if round % 2 == 0 { work.run_timeout(limit) } else { work });
        running.pass();
        if round % 2 == 1 {
            handle.cancel();
        }
        match end(handle).map_err(offloop::Error::into_kind) {
            Ok(()) | Err(ErrorKind::Cancelled | ErrorKind::RunTimeout(_)) => {}
            Err(other) => panic!("{other:?}"),
        }
    }
    eventually("the callbacks' threads are free", || pool.queued() == 0);
    assert_eq!(late.get(), 0);
}
