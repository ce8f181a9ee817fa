//! Checks encoded values without decoding them.

use super::{
    ARRAY, BIN, BLOB, DEPTH, EXT1, EXT4, EXT32, Error, F32, F64, FALSE, Family, I8, I16, I32, I64, MAP, NIL,
    PART, SOME, STR, TRUE, U8, U16, U32, U64,
};

/// Checks that bytes are whole values of this encoding, one after the other, nested up to [`DEPTH`] levels, and that they
/// are complete by themselves: a blob that is a part of a payload would be missing.
///
/// It takes memory for the levels only, and believes no length.
pub(crate) fn check(bytes: &[u8]) -> Result<(), Error> {
    let mut rest = bytes;
    // The number of values that are missing in each list and table that is open.
    let mut open: Vec<u64> = Vec::new();
    while !rest.is_empty() || !open.is_empty() {
        let inner = value(&mut rest)?;
        if let Some(missing) = open.last_mut() {
            *missing -= 1;
        }
        if inner > 0 {
            if open.len() >= usize::from(DEPTH) {
                return Err(Error::TooDeep);
            }
            open.push(inner);
        }
        while open.last() == Some(&0) {
            open.pop();
        }
    }
    Ok(())
}

/// Skips a value, or the beginning of a list or a table. Returns the number of values in that.
fn value(rest: &mut &[u8]) -> Result<u64, Error> {
    let [marker] = number(rest)?;
    match marker {
        0..0x80 | 0xe0..=0xff | NIL | FALSE | TRUE => {}
        U8 | I8 => skip(rest, 1)?,
        U16 | I16 => skip(rest, 2)?,
        U32 | I32 | F32 => skip(rest, 4)?,
        U64 | I64 | F64 => skip(rest, 8)?,
        EXT1 => match number(rest)? {
            [SOME, 1..=u8::MAX] => {}
            _ => return Err(Error::Marker(EXT1)),
        },
        EXT4 => match number(rest)? {
            [PART] => return Err(Error::Custom("a blob in it has not come along".into())),
            _ => return Err(Error::Marker(EXT4)),
        },
        EXT32 => {
            let length = u32::from_be_bytes(number(rest)?);
            match number(rest)? {
                [BLOB] => skip(rest, length.into())?,
                _ => return Err(Error::Marker(EXT32)),
            }
        }
        _ => {
            if let Some(length) = length(rest, &STR, marker)? {
                skip(rest, length)?;
            } else if let Some(length) = length(rest, &BIN, marker)? {
                skip(rest, length)?;
            } else if let Some(length) = length(rest, &ARRAY, marker)? {
                return Ok(length);
            } else if let Some(length) = length(rest, &MAP, marker)? {
                return Ok(2 * length);
            } else {
                return Err(Error::Marker(marker));
            }
        }
    }
    Ok(0)
}

fn skip(rest: &mut &[u8], count: u64) -> Result<(), Error> {
    let (_, after) =
        usize::try_from(count).ok().and_then(|count| rest.split_at_checked(count)).ok_or(Error::End)?;
    *rest = after;
    Ok(())
}

fn number<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], Error> {
    let (taken, after) = rest.split_first_chunk().ok_or(Error::End)?;
    *rest = after;
    Ok(*taken)
}

/// Returns the length of a value of this family, if the marker belongs to it.
fn length(rest: &mut &[u8], family: &Family, marker: u8) -> Result<Option<u64>, Error> {
    let (first, count) = family.fix;
    Ok(Some(if marker.wrapping_sub(first) < count {
        u64::from(marker - first)
    } else if family.short == Some(marker) {
        u64::from(number::<1>(rest)?[0])
    } else if marker == family.long[0] {
        u16::from_be_bytes(number(rest)?).into()
    } else if marker == family.long[1] {
        u32::from_be_bytes(number(rest)?).into()
    } else {
        return Ok(None);
    }))
}
