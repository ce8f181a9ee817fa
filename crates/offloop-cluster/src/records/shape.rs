//! Checks of a record that take no memory. They come before it is decoded.

use rmp::Marker;

use super::{MAX_DEPTH, MAX_RECORD, RecordError};

/// Checks that a record of this size is allowed.
pub(crate) fn check_size(size: usize) -> Result<(), RecordError> {
    if size > MAX_RECORD { Err(RecordError::TooLarge { size, limit: MAX_RECORD }) } else { Ok(()) }
}

/// Checks that the bytes are one whole MessagePack value without deep nesting, whose lengths are of bytes that are there.
pub(super) fn check(bytes: &[u8]) -> Result<(), RecordError> {
    check_within(bytes, MAX_RECORD)
}

/// Does the same for a record that may have another size.
pub(super) fn check_within(bytes: &[u8], limit: usize) -> Result<(), RecordError> {
    if bytes.len() > limit {
        return Err(RecordError::TooLarge { size: bytes.len(), limit });
    }
    let mut rest = bytes;
    // The number of values that are missing in each map and list around the present place.
    let mut missing = [0_u64; MAX_DEPTH + 1];
    let mut depth = 0;
    missing[0] = 1;
    loop {
        while missing[depth] == 0 {
            if depth == 0 {
                return if rest.is_empty() { Ok(()) } else { malformed("more bytes follow it") };
            }
            depth -= 1;
        }
        missing[depth] -= 1;
        let children = skip_value(&mut rest)?;
        // Each value has at least one byte. A map or a list that claims more is refused before it is walked.
        if children > rest.len() as u64 {
            return malformed("it is cut short");
        }
        if children > 0 {
            depth += 1;
            *missing.get_mut(depth).ok_or(RecordError::TooDeep { limit: MAX_DEPTH })? = children;
        }
    }
}

/// Returns the version that the map begins with. The bytes have been checked.
pub(super) fn version(mut bytes: &[u8]) -> Result<u64, RecordError> {
    let entries = rmp::decode::read_map_len(&mut bytes).unwrap_or(0);
    match (entries, bytes) {
        (1.., [0xa1, b'v', value @ ..]) => {
            let mut value = value;
            rmp::decode::read_int(&mut value).or_else(|_| malformed("its version is no number"))
        }
        _ => malformed("it does not begin with its version"),
    }
}

/// Takes one value away: a scalar with all its bytes, or the head of a map or list. Returns the number of values that
/// the map or list holds.
fn skip_value(rest: &mut &[u8]) -> Result<u64, RecordError> {
    let marker = Marker::from_u8(number(rest, 1)?.to_le_bytes()[0]);
    let length = match marker {
        Marker::FixPos(_) | Marker::FixNeg(_) | Marker::Null | Marker::True | Marker::False => 0,
        Marker::U8 | Marker::I8 => 1,
        Marker::U16 | Marker::I16 | Marker::FixExt1 => 2,
        Marker::FixExt2 => 3,
        Marker::U32 | Marker::I32 | Marker::F32 => 4,
        Marker::FixExt4 => 5,
        Marker::U64 | Marker::I64 | Marker::F64 => 8,
        Marker::FixExt8 => 9,
        Marker::FixExt16 => 17,
        Marker::FixStr(length) => length.into(),
        Marker::Str8 | Marker::Bin8 => number(rest, 1)?,
        Marker::Str16 | Marker::Bin16 => number(rest, 2)?,
        Marker::Str32 | Marker::Bin32 => number(rest, 4)?,
        // One byte more, for the type.
        Marker::Ext8 => number(rest, 1)? + 1,
        Marker::Ext16 => number(rest, 2)? + 1,
        Marker::Ext32 => number(rest, 4)? + 1,
        Marker::FixArray(length) => return Ok(length.into()),
        Marker::Array16 => return number(rest, 2),
        Marker::Array32 => return number(rest, 4),
        Marker::FixMap(length) => return Ok(u64::from(length) * 2),
        Marker::Map16 => return Ok(number(rest, 2)? * 2),
        Marker::Map32 => return Ok(number(rest, 4)? * 2),
        Marker::Reserved => return malformed("it has a byte that begins no value"),
    };
    take(rest, length)?;
    Ok(0)
}

/// Takes a big-endian number of at most 8 bytes away.
fn number(rest: &mut &[u8], size: u64) -> Result<u64, RecordError> {
    Ok(take(rest, size)?.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
}

/// Takes bytes away.
fn take<'a>(rest: &mut &'a [u8], length: u64) -> Result<&'a [u8], RecordError> {
    let split = usize::try_from(length).ok().and_then(|length| rest.split_at_checked(length));
    let Some((taken, after)) = split else { return malformed("it is cut short") };
    *rest = after;
    Ok(taken)
}

fn malformed<T>(reason: &str) -> Result<T, RecordError> {
    Err(RecordError::Malformed(reason.to_owned()))
}
