//! Arguments and results: bytes that tell which job they belong to and where in it.

/// Returns a number that looks random and follows from `value` (the finaliser of splitmix64).
pub(crate) fn mix(value: u64) -> u64 {
    let mut value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Returns the eight bytes at the position `index` of the pattern `seed`.
fn word(seed: u64, index: usize) -> [u8; 8] {
    mix(seed ^ mix(index as u64)).to_le_bytes()
}

/// Returns the first `length` bytes of the pattern `seed`.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    for index in 0..length.div_ceil(8) {
        bytes.extend_from_slice(&word(seed, index));
    }
    bytes.truncate(length);
    bytes
}

/// Checks that `bytes` are the first `length` bytes of the pattern `seed`. The error says where they differ.
fn check(bytes: &[u8], seed: u64, length: usize) -> Result<(), String> {
    if bytes.len() != length {
        return Err(format!("{} bytes arrived, {length} were sent", bytes.len()));
    }
    let differs = |(index, chunk): (usize, &[u8])| *chunk != word(seed, index)[..chunk.len()];
    match bytes.chunks(8).enumerate().position(differs) {
        None => Ok(()),
        Some(index) => Err(format!("the bytes differ in the eight from {} of {length}", index * 8)),
    }
}

/// Returns the argument of a job.
pub(crate) fn argument(number: u64, length: usize) -> Vec<u8> {
    pattern(mix(number), length)
}

/// Checks in the worker that a job's argument arrived whole.
pub(crate) fn check_argument(bytes: &[u8], number: u64, length: usize) -> Result<(), String> {
    check(bytes, mix(number), length)
}

/// Returns the result of a job: at least eight bytes, which no other job returns.
pub(crate) fn result(number: u64, length: usize) -> Vec<u8> {
    pattern(!mix(number), 8 + length)
}

/// Checks that a job's result arrived whole.
pub(crate) fn check_result(bytes: &[u8], number: u64, length: usize) -> Result<(), String> {
    check(bytes, !mix(number), 8 + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pattern_passes_its_check_and_nothing_else_does() {
        for length in [0, 1, 7, 8, 9, 1000] {
            let bytes = pattern(5, length);
            assert_eq!(check(&bytes, 5, length), Ok(()));
            assert!(check(&bytes, 5, length + 1).is_err());
            for at in 0..length {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                assert!(check(&damaged, 5, length).is_err(), "byte {at} of {length}");
            }
        }
    }

    #[test]
    fn the_bytes_of_another_job_and_exchanged_bytes_do_not_pass() {
        let mut bytes = pattern(5, 64);
        assert!(check(&bytes, 6, 64).is_err());
        bytes[..16].rotate_left(8);
        assert!(check(&bytes, 5, 64).is_err());
        assert_eq!(check_result(&result(5, 0), 5, 0), Ok(()));
        assert!(check_result(&result(5, 0), 6, 0).is_err());
    }
}
