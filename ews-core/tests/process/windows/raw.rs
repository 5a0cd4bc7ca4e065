//! Two system calls that std has nothing for.
//!
//! This file is excepted from the ban on `unsafe` for them: a burner must count its own time to show whether the runtime counts
//! it right, and a program that leads a process group hears no CTRL_C, the only event that Wine 8 sends, unless it asks for it.

#![allow(unsafe_code)]

use std::time::Duration;

use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::Console::SetConsoleCtrlHandler;
use windows_sys::Win32::System::Threading::{GetCurrentProcess, GetProcessTimes};

/// The time in user and in kernel mode.
pub(super) fn own_times() -> (Duration, Duration) {
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

/// Undoes what the start as the leader of a group has done: CTRL_C is heard again.
pub(super) fn hear_ctrl_c() {
    // SAFETY: no handler is given, which is the call's way to say this.
    let done = unsafe { SetConsoleCtrlHandler(None, 0) };
    assert_ne!(done, 0, "{}", std::io::Error::last_os_error());
}
