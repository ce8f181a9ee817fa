//! The contents of large arguments and results: bytes that tell which job they belong to and where in it.

/// Eight bytes of the pattern `seed` at the word `index`.
fn word(seed: u64, index: u64) -> u64 {
    mix(seed ^ mix(index))
}

/// A number that looks like nothing and follows from `value` (the finaliser of splitmix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Appends `length` bytes of the pattern `seed`.
pub(crate) fn append(bytes: &mut Vec<u8>, seed: u64, length: usize) {
    let end = bytes.len() + length;
    bytes.reserve(length + 8);
    for index in 0..length.div_ceil(8) {
        bytes.extend_from_slice(&word(seed, index as u64).to_le_bytes());
    }
    bytes.truncate(end);
}

/// Whether `bytes` are `length` bytes of the pattern `seed`; if not, what is wrong with them.
pub(crate) fn check(bytes: &[u8], seed: u64, length: usize) -> Result<(), String> {
    if bytes.len() != length {
        return Err(format!("{} bytes came, {length} were sent", bytes.len()));
    }
    let fault = |at: usize| Err(format!("the bytes differ in the eight from {at} of {length}"));
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    for (index, eight) in words.enumerate() {
        if *eight != word(seed, index as u64).to_le_bytes() {
            return fault(index * 8);
        }
    }
    let index = length / 8;
    if *rest != word(seed, index as u64).to_le_bytes()[..rest.len()] {
        return fault(index * 8);
    }
    Ok(())
}

/// A sum over `bytes` that depends on their order.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, chunk| {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        (sum.rotate_left(5) ^ u64::from_le_bytes(eight)).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(&mut bytes, seed, length);
        bytes
    }

    #[test]
    fn what_was_made_passes_and_nothing_else() {
        for length in [0, 1, 7, 8, 9, 1000] {
            let bytes = made(5, length);
            assert_eq!(check(&bytes, 5, length), Ok(()));
            assert!(check(&bytes, 5, length + 1).is_err());
            for at in 0..length {
                let mut spoilt = bytes.clone();
                spoilt[at] ^= 1;
                assert!(check(&spoilt, 5, length).is_err(), "byte {at} of {length}");
                assert_ne!(checksum(&spoilt), checksum(&bytes), "byte {at} of {length}");
            }
        }
    }

    #[test]
    fn another_jobs_bytes_and_exchanged_ones_do_not_pass() {
        let bytes = made(5, 64);
        assert!(check(&bytes, 6, 64).is_err());
        let mut exchanged = bytes.clone();
        exchanged[..16].rotate_left(8);
        assert!(check(&exchanged, 5, 64).is_err());
        assert_ne!(checksum(&exchanged), checksum(&bytes));
    }
}
