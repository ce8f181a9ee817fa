//! The worker reads a document where the service has received it.

use std::time::Duration;

use axum::body::Body;
use mercuriy::body;
use mercuriy::mode::Mode;
use mercuriy::places::Places;
use offloop::Blob;
use serde::{Deserialize, Serialize};

offloop::init_tests!();

/// Where bytes are: a file in memory, by its number, and the offset in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    process: u32,
    inode: String,
    offset: usize,
}

/// Returns where in the shared memory that this process has mapped `bytes` begin.
fn place(bytes: &[u8]) -> Option<Place> {
    let address = bytes.as_ptr() as usize;
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let [range, _, offset, _, inode, ..] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            return None;
        };
        let (start, end) = range.split_once('-')?;
        let hex = |text| usize::from_str_radix(text, 16).ok();
        let (start, end) = (hex(start)?, hex(end)?);
        (start..end).contains(&address).then_some(())?;
        Some(Place {
            process: std::process::id(),
            inode: inode.to_owned(),
            offset: hex(offset)? + (address - start),
        })
    })
}

#[offloop::task]
fn place_in_worker(document: Blob) -> Option<Place> {
    place(&document)
}

#[test]
fn the_worker_reads_a_document_where_the_service_has_received_it() {
    let places = Places::new(Mode::Offloop, None, None).expect("pools");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let document = format!("[{}]", vec!["0"; 4_000_000].join(","));
        let mut received = places.documents().blob(document.len());
        body::read(Body::from(document), body::MAX_DOCUMENT, Duration::from_secs(60), &mut received)
            .await
            .expect("it is not too large");
        let received = received.freeze();
        let here = place(&received).expect("it is mapped");
        let there = places.documents().run(place_in_worker.with(received)).await.expect("it runs");
        let there = there.expect("it is mapped");
        assert_ne!(here.process, there.process);
        assert_ne!(here.inode, "0", "it is in memory that can be shared");
        assert_eq!((here.inode, here.offset), (there.inode, there.offset));
    });
}
