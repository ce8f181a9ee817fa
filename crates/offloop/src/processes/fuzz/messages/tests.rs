//! A short run of the entries without the fuzzer: on their corpora, and on random changes of these.

use std::path::PathBuf;

use super::super::tests::{change, input};
use super::*;
use crate::processes::handshake::{Orders, Role};
use crate::processes::limits::Limits;
use crate::processes::link::SlotHeader;
use crate::wire::pool_memory::PoolMemory;

/// The number of changed inputs of each entry that are tried.
const INPUTS: usize = 5_000;

/// The number of levels in a seed. Deeper values are tried where the limit of the depth is.
const LEVELS: usize = 40;

type Entry = (&'static str, fn(&[u8]));

const ENTRIES: [Entry; 4] =
    [("request", request), ("handshake", handshake), ("template", template), ("nested", nested)];

/// Returns the folder of an entry's inputs. It is not part of the published crate.
fn corpus(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus")).join(name)
}

fn tree() -> Tree {
    let leaves =
        vec![Tree::Nothing, Tree::Number(None), Tree::Number(Some(-7)), Tree::Text("leaf".to_owned())];
    (0..LEVELS / 4).fold(Tree::List(leaves), |inner, level| {
        let name = level.to_string();
        let named = Tree::Named { name: name.clone(), inner: Some(Box::new(inner)) };
        let pair = Tree::Pair(Box::new(Tree::Boxed(Box::new(named))), Box::new(Tree::Nothing));
        Tree::Map(BTreeMap::from([(name, pair)]))
    })
}

/// Makes the input of a call with arguments in its slot.
fn call<T: Serialize>(arguments: &T, context: Option<&CallContext<'_>>) -> Vec<u8> {
    let payload = Payload::encode_call(context, arguments, &PoolMemory::new()).unwrap();
    let flags = if context.is_some() { CONTEXT } else { 0 };
    let inline = u32::try_from(payload.body().len()).unwrap();
    input(SlotHeader { job: 1, flags, inline, ..SlotHeader::default() }, payload.body())
}

fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    Payload::encode(value).unwrap().body().to_vec()
}

/// Returns inputs that each entry decodes.
fn seeds(name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let limits = Limits {
        nice: -5,
        cores: vec![0, 3],
        max_data: Some(1 << 30),
        open_files: Some(64),
        recycle_rss: None,
        idle_memory: 256 << 20,
    };
    let orders = Orders { arena: 1 << 30, max_payload: 1 << 30, limits, leads_group: true };
    let notice = |notice: &Notice| postcard::to_stdvec(notice).unwrap();
    let context = CallContext { name: Some("name"), parent: None, carried: None, request: None };
    match name {
        "request" => vec![
            ("numbers", call(&(7_u64, 8_u64), None)),
            ("texts", call(&("text", Some("other")), None)),
            ("blobs", call(&(Blob::from(vec![1; 30]), vec![Blob::from(vec![2; 3])], true), None)),
            ("tree", call(&(Tree::List(vec![Tree::Nothing, Tree::Number(Some(5))]),), None)),
            ("context", call(&(7_u64, 8_u64), Some(&context))),
        ],
        "handshake" => {
            vec![("orders", postcard::to_extend(&orders, Role::Worker.head().to_vec()).unwrap())]
        }
        "template" => vec![
            ("born", notice(&Notice::Born { order: 1 << 40, pid: 77 })),
            ("failed", notice(&Notice::Failed { order: 3, reason: "no".to_owned() })),
            (
                "ended",
                notice(&Notice::Ended { pid: 9, code: Some(-1), signal: Some(9), peak_memory: 1 << 33 }),
            ),
        ],
        "nested" => {
            let chain = (0..LEVELS).fold(Chain(None), |inner, _| Chain(Some(Box::new(inner))));
            vec![("tree", encoded(&tree())), ("chain", encoded(&chain))]
        }
        other => unreachable!("{other} is no entry"),
    }
}

/// `cargo test -p offloop --lib -- --ignored corpora_of_messages`
#[test]
#[ignore = "writes to the source tree"]
fn the_corpora_of_messages_are_written() {
    for (name, _) in ENTRIES {
        std::fs::create_dir_all(corpus(name)).unwrap();
        for (seed, bytes) in seeds(name) {
            std::fs::write(corpus(name).join(seed), bytes).unwrap();
        }
    }
}

#[test]
fn seeds_are_decoded() {
    for (seed, bytes) in seeds("request") {
        assert!(examine_request(&bytes) > 0, "{seed}");
    }
    for (_, bytes) in seeds("handshake") {
        assert!(decode_orders(&bytes).is_ok());
        assert!(decode_orders(&bytes[1..]).is_err());
    }
    for (seed, bytes) in seeds("template") {
        assert!(postcard::from_bytes::<Notice>(&bytes).is_ok(), "{seed}");
    }
    let [(_, tree), (_, chain)] = seeds("nested").try_into().unwrap();
    assert!(check_nested::<Tree>(&tree) && check_nested::<Chain>(&chain));
}

#[test]
fn no_message_of_any_bits_does_harm() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut roll = |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % bound as u64).unwrap()
    };
    for (name, entry) in ENTRIES {
        let mut inputs: Vec<Vec<u8>> = seeds(name).into_iter().map(|(_, bytes)| bytes).collect();
        let files = std::fs::read_dir(corpus(name)).into_iter().flatten();
        inputs.extend(files.map(|file| std::fs::read(file.unwrap().path()).unwrap()));
        for bytes in &inputs {
            entry(bytes);
        }
        let mut bytes = Vec::new();
        for _ in 0..INPUTS {
            bytes.clone_from(&inputs[roll(inputs.len())]);
            change(&mut bytes, &mut roll);
            entry(&bytes);
        }
    }
}
