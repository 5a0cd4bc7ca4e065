//! The system calls that neither std nor tokio has, each behind a signature that can't be misused.
//!
//! This file is excepted from the ban on `unsafe`, and is the only one for Windows: jobs, process times and lists, console
//! events, access lists of pipes and the handles of standard streams are to be had from the C interface only. Each call gets
//! structures that live on this side of it, handles that are borrowed for its time, and buffers with their true length.

#![allow(unsafe_code)]

use std::ffi::{OsStr, c_void};
use std::io;
use std::mem::size_of;
use std::os::windows::io::{
    AsRawHandle as _, BorrowedHandle, FromRawHandle as _, IntoRawHandle as _, OwnedHandle,
};
use std::ptr::{null, null_mut};

use tokio::net::windows::named_pipe::{NamedPipeClient, NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{
    ERROR_NO_MORE_FILES, FILETIME, HANDLE, HANDLE_FLAG_INHERIT, INVALID_HANDLE_VALUE, LocalFree,
    SetHandleInformation, WAIT_OBJECT_0, WAIT_TIMEOUT,
};
use windows_sys::Win32::Security::Authorization::{
    ConvertStringSecurityDescriptorToSecurityDescriptorW, SDDL_REVISION_1,
};
use windows_sys::Win32::Security::{PSECURITY_DESCRIPTOR, SECURITY_ATTRIBUTES};
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, GenerateConsoleCtrlEvent, GetStdHandle, STD_HANDLE, STD_INPUT_HANDLE,
    STD_OUTPUT_HANDLE, SetStdHandle,
};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
    TH32CS_SNAPTHREAD, THREADENTRY32, Thread32First, Thread32Next,
};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, JOB_OBJECT_CPU_RATE_CONTROL_ENABLE,
    JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP, JOB_OBJECT_LIMIT_ACTIVE_PROCESS,
    JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION, JOB_OBJECT_LIMIT_JOB_MEMORY,
    JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOBOBJECT_BASIC_ACCOUNTING_INFORMATION,
    JOBOBJECT_CPU_RATE_CONTROL_INFORMATION, JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JOBOBJECTINFOCLASS,
    JobObjectBasicAccountingInformation, JobObjectCpuRateControlInformation,
    JobObjectExtendedLimitInformation, QueryInformationJobObject, SetInformationJobObject,
    TerminateJobObject,
};
use windows_sys::Win32::System::ProcessStatus::{K32GetProcessMemoryInfo, PROCESS_MEMORY_COUNTERS};
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
use windows_sys::Win32::System::Threading::{
    GetExitCodeProcess, GetProcessTimes, INFINITE, OpenProcess, OpenThread,
    PROCESS_QUERY_LIMITED_INFORMATION, PROCESS_SYNCHRONIZE, ResumeThread, THREAD_SUSPEND_RESUME,
    TerminateProcess, WaitForSingleObject,
};

use crate::process::cgroup::Limits;

/// What a call that gives zero for a failure says.
fn checked(result: i32) -> io::Result<()> {
    if result == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A handle that a call has made; those that fail give either of two values for none.
fn owned(handle: HANDLE) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it, and nobody else knows it.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// The size of a structure as the interface wants it.
fn size<T>() -> u32 {
    u32::try_from(size_of::<T>()).unwrap_or(u32::MAX)
}

/// Text that ends with zero.
fn wide(text: &str) -> Vec<u16> {
    text.encode_utf16().chain([0]).collect()
}

/// A job object. What is in it ends with the last handle to it, which only this process has.
#[derive(Debug)]
pub(super) struct Job(OwnedHandle);

impl Job {
    /// A job that ends what is in it when it is closed. A program of it that crashes ends, instead of asking somebody at a
    /// screen.
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no name and the default attributes, by which no child inherits it.
        let job = Self(owned(unsafe { CreateJobObjectW(null(), null()) })?);
        job.limit_memory_and_processes(&Limits::default())?;
        Ok(job)
    }

    fn raw(&self) -> HANDLE {
        self.0.as_raw_handle()
    }

    fn set<T>(&self, class: JOBOBJECTINFOCLASS, information: &T) -> io::Result<()> {
        // SAFETY: the structure is of the class that its callers in this file name, and is read only.
        checked(unsafe {
            SetInformationJobObject(
                self.raw(),
                class,
                std::ptr::from_ref(information).cast::<c_void>(),
                size::<T>(),
            )
        })
    }

    fn query<T: Default>(&self, class: JOBOBJECTINFOCLASS) -> io::Result<T> {
        let mut information = T::default();
        let place = std::ptr::from_mut(&mut information).cast::<c_void>();
        // SAFETY: the structure is of the class that its callers in this file name; all of it are numbers.
        checked(unsafe { QueryInformationJobObject(self.raw(), class, place, size::<T>(), null_mut()) })?;
        Ok(information)
    }

    /// Holds all of it together to so much memory and so many processes; other limits of this kind are taken off.
    pub(super) fn limit_memory_and_processes(&self, limits: &Limits) -> io::Result<()> {
        let mut information = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        let mut flags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_DIE_ON_UNHANDLED_EXCEPTION;
        if let Some(bytes) = limits.memory {
            flags |= JOB_OBJECT_LIMIT_JOB_MEMORY;
            information.JobMemoryLimit = usize::try_from(bytes).unwrap_or(usize::MAX);
        }
        if let Some(processes) = limits.pids {
            flags |= JOB_OBJECT_LIMIT_ACTIVE_PROCESS;
            information.BasicLimitInformation.ActiveProcessLimit = processes;
        }
        information.BasicLimitInformation.LimitFlags = flags;
        self.set(JobObjectExtendedLimitInformation, &information)
    }

    /// Holds all of it together to this share of all processors, in ten-thousandths.
    pub(super) fn limit_cpu(&self, rate: u32) -> io::Result<()> {
        let mut information = JOBOBJECT_CPU_RATE_CONTROL_INFORMATION {
            ControlFlags: JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP,
            ..JOBOBJECT_CPU_RATE_CONTROL_INFORMATION::default()
        };
        information.Anonymous.CpuRate = rate;
        self.set(JobObjectCpuRateControlInformation, &information)
    }

    /// The limits on memory and processes, as the system says them.
    pub(super) fn limits(&self) -> io::Result<(usize, u32)> {
        let known: JOBOBJECT_EXTENDED_LIMIT_INFORMATION = self.query(JobObjectExtendedLimitInformation)?;
        Ok((known.JobMemoryLimit, known.BasicLimitInformation.ActiveProcessLimit))
    }

    /// The limit on CPU time, as the system says it.
    pub(super) fn cpu_limit(&self) -> io::Result<u32> {
        let known: JOBOBJECT_CPU_RATE_CONTROL_INFORMATION = self.query(JobObjectCpuRateControlInformation)?;
        // SAFETY: each variant of the union is a number of the same place, for which every pattern is a value.
        Ok(unsafe { known.Anonymous.CpuRate })
    }

    /// Takes a process in, and with it all that it will start.
    pub(super) fn assign(&self, process: BorrowedHandle<'_>) -> io::Result<()> {
        // SAFETY: both handles are borrowed for the call.
        checked(unsafe { AssignProcessToJobObject(self.raw(), process.as_raw_handle()) })
    }

    /// Ends everything in it.
    pub(super) fn terminate(&self, code: u32) -> io::Result<()> {
        // SAFETY: the handle is borrowed for the call.
        checked(unsafe { TerminateJobObject(self.raw(), code) })
    }

    /// How many processes of it live.
    pub(super) fn active(&self) -> io::Result<u32> {
        let known: JOBOBJECT_BASIC_ACCOUNTING_INFORMATION =
            self.query(JobObjectBasicAccountingInformation)?;
        Ok(known.ActiveProcesses)
    }
}

/// Opens a process for looking at it.
pub(super) fn open_process(pid: u32) -> io::Result<OwnedHandle> {
    // SAFETY: the call takes numbers only.
    owned(unsafe { OpenProcess(PROCESS_QUERY_LIMITED_INFORMATION | PROCESS_SYNCHRONIZE, 0, pid) })
}

/// When a process was made, and the time that it has used in user and kernel mode, in units of 100 ns.
pub(super) fn process_times(process: BorrowedHandle<'_>) -> io::Result<(u64, u64)> {
    let [mut created, mut exited, mut kernel, mut user] = [FILETIME::default(); 4];
    // SAFETY: the four places live here, and the handle is borrowed for the call.
    checked(unsafe {
        GetProcessTimes(process.as_raw_handle(), &mut created, &mut exited, &mut kernel, &mut user)
    })?;
    let number = |time: FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Ok((number(created), number(kernel).saturating_add(number(user))))
}

/// The memory of a process that lies in the machine's, in bytes.
pub(super) fn process_memory(process: BorrowedHandle<'_>) -> io::Result<u64> {
    let mut counters = PROCESS_MEMORY_COUNTERS {
        cb: size::<PROCESS_MEMORY_COUNTERS>(),
        ..PROCESS_MEMORY_COUNTERS::default()
    };
    // SAFETY: the place lives here with its true size, and the handle is borrowed for the call.
    checked(unsafe { K32GetProcessMemoryInfo(process.as_raw_handle(), &mut counters, counters.cb) })?;
    Ok(counters.WorkingSetSize as u64)
}

/// Whether a process has ended.
pub(super) fn has_ended(process: BorrowedHandle<'_>) -> io::Result<bool> {
    // SAFETY: the handle is borrowed for the call.
    match unsafe { WaitForSingleObject(process.as_raw_handle(), 0) } {
        WAIT_OBJECT_0 => Ok(true),
        WAIT_TIMEOUT => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Waits for the end of a process, on a thread that may wait, and gives its exit code.
pub(super) fn wait_for(process: BorrowedHandle<'_>) -> io::Result<u32> {
    // SAFETY: the handle is borrowed for the call.
    if unsafe { WaitForSingleObject(process.as_raw_handle(), INFINITE) } != WAIT_OBJECT_0 {
        return Err(io::Error::last_os_error());
    }
    let mut code = 0;
    // SAFETY: the place lives here, and the handle is borrowed for the call.
    checked(unsafe { GetExitCodeProcess(process.as_raw_handle(), &mut code) })?;
    Ok(code)
}

/// Ends a process.
pub(super) fn terminate(process: BorrowedHandle<'_>, code: u32) -> io::Result<()> {
    // SAFETY: the handle is borrowed for the call.
    checked(unsafe { TerminateProcess(process.as_raw_handle(), code) })
}

/// The end of a list is told as an error.
fn goes_on(result: i32) -> io::Result<bool> {
    if result != 0 {
        return Ok(true);
    }
    let error = io::Error::last_os_error();
    if error.raw_os_error() == Some(ERROR_NO_MORE_FILES.cast_signed()) { Ok(false) } else { Err(error) }
}

/// A process in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) pid: u32,
    /// The number of who started it, which may be another's meanwhile.
    pub(super) parent: u32,
    /// The name of its file, without the folder.
    pub(super) name: String,
    pub(super) threads: u32,
}

/// Every process of this moment.
pub(super) fn processes() -> io::Result<Vec<Listed>> {
    // SAFETY: the call takes numbers only.
    let list = owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) })?;
    let mut entry = PROCESSENTRY32W { dwSize: size::<PROCESSENTRY32W>(), ..PROCESSENTRY32W::default() };
    let mut found = Vec::new();
    // SAFETY: the place lives here and holds its true size, and the handle lives until the end of the function.
    let mut more = goes_on(unsafe { Process32FirstW(list.as_raw_handle(), &mut entry) })?;
    while more {
        let name: Vec<u16> = entry.szExeFile.iter().copied().take_while(|unit| *unit != 0).collect();
        found.push(Listed {
            pid: entry.th32ProcessID,
            parent: entry.th32ParentProcessID,
            name: String::from_utf16_lossy(&name),
            threads: entry.cntThreads,
        });
        // SAFETY: as above.
        more = goes_on(unsafe { Process32NextW(list.as_raw_handle(), &mut entry) })?;
    }
    Ok(found)
}

/// Lets a process go on that was started suspended: its one thread, which std gives nobody.
pub(super) fn resume(pid: u32) -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    let list = owned(unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0) })?;
    let mut entry = THREADENTRY32 { dwSize: size::<THREADENTRY32>(), ..THREADENTRY32::default() };
    let mut resumed = false;
    // SAFETY: the place lives here and holds its true size, and the handle lives until the end of the function.
    let mut more = goes_on(unsafe { Thread32First(list.as_raw_handle(), &mut entry) })?;
    while more {
        if entry.th32OwnerProcessID == pid {
            // SAFETY: the call takes numbers only.
            let thread = owned(unsafe { OpenThread(THREAD_SUSPEND_RESUME, 0, entry.th32ThreadID) })?;
            // SAFETY: the handle lives here.
            if unsafe { ResumeThread(thread.as_raw_handle()) } == u32::MAX {
                return Err(io::Error::last_os_error());
            }
            resumed = true;
        }
        // SAFETY: as above.
        more = goes_on(unsafe { Thread32Next(list.as_raw_handle(), &mut entry) })?;
    }
    if resumed { Ok(()) } else { Err(io::Error::other("it has no thread")) }
}

/// Sends CTRL_BREAK to the process group that this process leads, on the console that both have.
///
/// Wine 8 can't send it and says so; it sends CTRL_C to a group, which Windows does not. So where the first is refused the
/// second is tried. A program that leads a group does not hear CTRL_C unless it has asked for it.
pub(super) fn send_break(group: u32) -> io::Result<()> {
    if group == 0 {
        // Which would be everybody on the console.
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: the call takes numbers only.
    let send = |event| checked(unsafe { GenerateConsoleCtrlEvent(event, group) });
    send(CTRL_BREAK_EVENT).or_else(|refused| send(CTRL_C_EVENT).map_err(|_| refused))
}

/// The machine's memory, in bytes.
pub(super) fn machine_memory() -> io::Result<u64> {
    let mut status = MEMORYSTATUSEX { dwLength: size::<MEMORYSTATUSEX>(), ..MEMORYSTATUSEX::default() };
    // SAFETY: the place lives here and holds its true size.
    checked(unsafe { GlobalMemoryStatusEx(&mut status) })?;
    Ok(status.ullTotalPhys)
}

/// Keeps a handle out of the programs that this process starts: std lets a child inherit whatever may be.
pub(super) fn keep_from_children(handle: BorrowedHandle<'_>) -> io::Result<()> {
    // SAFETY: the handle is borrowed for the call.
    checked(unsafe { SetHandleInformation(handle.as_raw_handle(), HANDLE_FLAG_INHERIT, 0) })
}

/// One of the two standard streams that a shim gets other things by.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standard {
    Input,
    Output,
}

/// Takes what this process was given as a standard stream, and leaves none there.
pub(super) fn take_standard(stream: Standard) -> io::Result<OwnedHandle> {
    let which: STD_HANDLE = match stream {
        Standard::Input => STD_INPUT_HANDLE,
        Standard::Output => STD_OUTPUT_HANDLE,
    };
    // SAFETY: the call takes a number only.
    let handle = unsafe { GetStdHandle(which) };
    // SAFETY: std asks for the handle each time that it needs it and keeps none, so from here on nobody has it.
    checked(unsafe { SetStdHandle(which, null_mut()) })?;
    owned(handle)
}

/// Makes a pipe that only this process's user and the system may open. What others may do there by default is read.
pub(super) fn private_pipe(options: &ServerOptions, name: &OsStr) -> io::Result<NamedPipeServer> {
    let descriptor = Descriptor::of("D:P(A;;GA;;;OW)(A;;GA;;;SY)")?;
    let mut attributes = SECURITY_ATTRIBUTES {
        nLength: size::<SECURITY_ATTRIBUTES>(),
        lpSecurityDescriptor: descriptor.0,
        bInheritHandle: 0,
    };
    let attributes = std::ptr::from_mut(&mut attributes).cast::<c_void>();
    // SAFETY: the attributes and the descriptor that they point to live until after the call, which copies them.
    unsafe { options.create_with_security_attributes_raw(name, attributes) }
}

/// An access list in the system's own form.
struct Descriptor(PSECURITY_DESCRIPTOR);

impl Descriptor {
    fn of(text: &str) -> io::Result<Self> {
        let (text, mut descriptor) = (wide(text), null_mut());
        // SAFETY: the text ends with zero, and the place for the result lives here.
        checked(unsafe {
            ConvertStringSecurityDescriptorToSecurityDescriptorW(
                text.as_ptr(),
                SDDL_REVISION_1,
                &mut descriptor,
                null_mut(),
            )
        })?;
        Ok(Self(descriptor))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the call that made it says that it is freed so, and nobody else has it.
        unsafe { LocalFree(self.0) };
    }
}

/// A handle to a pipe's client side, made for waiting, that was given to this process.
pub(super) fn adopt_pipe(handle: OwnedHandle) -> io::Result<NamedPipeClient> {
    // SAFETY: the handle is owned, and given away here.
    unsafe { NamedPipeClient::from_raw_handle(handle.into_raw_handle()) }
}
