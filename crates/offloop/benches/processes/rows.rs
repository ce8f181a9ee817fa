//! Structs that go to a worker and come back: in offloop's encoding, and as bytes that the user encodes with `postcard`,
//! which writes no names of fields.

use std::time::{Duration, Instant};

use offloop::{Handle, ProcessPool};
use serde::{Deserialize, Serialize};

use super::{Contender, WORKERS};

pub(crate) const POSTCARD: &str = "offloop, postcard in Vec<u8>";

/// A row of a table, with twenty fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    id: u64,
    name: String,
    street: String,
    city: String,
    country: String,
    email: String,
    latitude: f64,
    longitude: f64,
    price: f64,
    discount: Option<f32>,
    quantity: u32,
    weight: u32,
    created: i64,
    updated: Option<i64>,
    is_active: bool,
    is_paid: bool,
    category: u16,
    level: i8,
    comment: Option<String>,
    tags: Vec<String>,
}

impl Row {
    fn new(id: u64) -> Self {
        Self {
            id,
            name: format!("customer {id}"),
            street: "Long Street 17".to_owned(),
            city: "Springfield".to_owned(),
            country: "DE".to_owned(),
            email: format!("customer{id}@example.org"),
            latitude: 52.5,
            longitude: 13.4,
            price: 19.99,
            discount: (id % 2 == 0).then_some(0.1),
            quantity: 3,
            weight: 1200,
            created: 1_700_000_000,
            updated: None,
            is_active: true,
            is_paid: false,
            category: 12,
            level: -1,
            comment: None,
            tags: vec!["new".to_owned(), "export".to_owned()],
        }
    }

    fn many(count: u64) -> Vec<Self> {
        (0..count).map(Self::new).collect()
    }
}

#[offloop::task]
fn echo(rows: Vec<Row>) -> Vec<Row> {
    rows
}

#[offloop::task]
fn echo_postcard(rows: &[u8]) -> Vec<u8> {
    let rows: Vec<Row> = postcard::from_bytes(rows).expect("they were encoded");
    postcard::to_stdvec(&rows).expect("they are rows")
}

/// Measures one call that returns its `count` rows, the encoding in this process included.
pub(super) fn there_and_back(pool: &ProcessPool, count: u64) -> Duration {
    let rows = Row::many(count);
    let begin = Instant::now();
    let back = Handle::wait(pool.run(echo.with(rows.clone()))).expect("it returns them");
    let time = begin.elapsed();
    assert_eq!(back, rows);
    time
}

/// The same call with bytes.
pub(crate) struct Postcard(ProcessPool);

impl Postcard {
    pub(crate) fn start() -> Self {
        Self(ProcessPool::builder().max_workers(WORKERS).build().expect("a pool"))
    }
}

impl Contender for Postcard {
    fn name(&self) -> &'static str {
        POSTCARD
    }

    fn rows(&mut self, count: u64) -> Option<Duration> {
        let rows = Row::many(count);
        let begin = Instant::now();
        let bytes = postcard::to_stdvec(&rows.clone()).expect("they are rows");
        let back = self.0.run(echo_postcard.with(&bytes)).wait().expect("it returns them");
        let back: Vec<Row> = postcard::from_bytes(&back).expect("they were encoded");
        let time = begin.elapsed();
        assert_eq!(back, rows);
        Some(time)
    }
}
