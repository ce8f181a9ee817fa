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

/// Appends `length` bytes of the pattern `seed`.
pub(crate) fn append(bytes: &mut Vec<u8>, seed: u64, length: usize) {
    let end = bytes.len() + length;
    bytes.reserve(length + 8);
    for index in 0..length.div_ceil(8) {
        bytes.extend_from_slice(&word(seed, index));
    }
    bytes.truncate(end);
}

/// Checks that `bytes` are the first `length` bytes of the pattern `seed`. The error says where they differ.
pub(crate) fn check(bytes: &[u8], seed: u64, length: usize) -> Result<(), String> {
    if bytes.len() != length {
        return Err(format!("{} bytes arrived, {length} were sent", bytes.len()));
    }
    let differs = |(index, chunk): (usize, &[u8])| *chunk != word(seed, index)[..chunk.len()];
    match bytes.chunks(8).enumerate().position(differs) {
        None => Ok(()),
        Some(index) => Err(format!("the bytes differ in the eight from {} of {length}", index * 8)),
    }
}

/// Returns a sum over `bytes` that depends on their order.
pub(crate) fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(bytes.len() as u64, |sum, chunk| {
        let mut eight = [0; 8];
        eight[..chunk.len()].copy_from_slice(chunk);
        (sum.rotate_left(5) ^ u64::from_le_bytes(eight)).wrapping_mul(0x517c_c1b7_2722_0a95)
    })
}

/// Returns the argument of a job.
pub(crate) fn argument(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    append(&mut bytes, mix(number), length);
    bytes
}

/// Checks in the worker that a job's argument arrived whole.
pub(crate) fn check_argument(bytes: &[u8], number: u64, length: usize) -> Result<(), String> {
    check(bytes, mix(number), length)
}

/// Returns the result of a job: eight bytes that depend on its number and argument, then `length` of a pattern.
pub(crate) fn result(number: u64, argument: &[u8], length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 16);
    bytes.extend_from_slice(&(mix(number ^ 0xface) ^ checksum(argument)).to_le_bytes());
    append(&mut bytes, !mix(number), length);
    bytes
}

/// Checks that `bytes` are the result of the job with this number, argument length and result length.
pub(crate) fn check_result(bytes: &[u8], number: u64, sent: usize, length: usize) -> Result<(), String> {
    let Some((sum, rest)) = bytes.split_first_chunk() else {
        return Err(format!("a result of {} bytes arrived", bytes.len()));
    };
    if u64::from_le_bytes(*sum) != mix(number ^ 0xface) ^ checksum(&argument(number, sent)) {
        return Err("it is another job's result, or the worker received another argument".to_owned());
    }
    check(rest, !mix(number), length)
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
    fn the_pattern_passes_its_check_and_nothing_else_does() {
        for length in [0, 1, 7, 8, 9, 1000] {
            let bytes = made(5, length);
            assert_eq!(check(&bytes, 5, length), Ok(()));
            assert!(check(&bytes, 5, length + 1).is_err());
            for at in 0..length {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1;
                assert!(check(&damaged, 5, length).is_err(), "byte {at} of {length}");
                assert_ne!(checksum(&damaged), checksum(&bytes), "byte {at} of {length}");
            }
        }
    }

    #[test]
    fn the_bytes_of_another_job_and_exchanged_bytes_do_not_pass() {
        let bytes = made(5, 64);
        assert!(check(&bytes, 6, 64).is_err());
        let mut exchanged = bytes.clone();
        exchanged[..16].rotate_left(8);
        assert!(check(&exchanged, 5, 64).is_err());
        assert_ne!(checksum(&exchanged), checksum(&bytes));
        let result = result(5, &argument(5, 100), 20);
        assert_eq!(check_result(&result, 5, 100, 20), Ok(()));
        assert!(check_result(&result, 6, 100, 20).is_err());
        assert!(check_result(&result, 5, 99, 20).is_err());
    }
}
