//! What a process has used of the CPU.
//!
//! This file is excepted from the ban on `unsafe` for one call, which std has nothing for: a burner must count its own time to
//! show whether the runtime counts it right.

#![allow(unsafe_code)]

use std::time::Duration;

use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};

/// The time in user and in kernel mode.
pub(super) fn own() -> (Duration, Duration) {
    let [mut created, mut exited, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the four places live here, and the handle is the one by which each process knows itself.
    let done =
        unsafe { GetProcessTimes(GetCurrentProcess(), &mut created, &mut exited, &mut kernel, &mut user) };
    assert_ne!(done, 0, "{}", std::io::Error::last_os_error());
    let time = |time: FILETIME| {
        Duration::from_nanos((u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime)) * 100)
    };
    (time(user), time(kernel))
}
