//! What a program is to the journey that all of them go.
//!
//! A version of a program is a tree of files, which is the artifact on processes and a layer of the image on Docker, and one line of shell,
//! the same on both: it is run where the tree is, and finds in its environment
//!
//! - `PORT`, and `PORT_<NAME>` for each further port, and `BIND`, the address to listen on;
//! - `DATA`, a directory that outlives the instance, where [`Program::keeps_data`] says that there is one.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ews_core::InstanceSpec;
use ews_core::balancer::PoolProtocol;
use ews_core::spec::probe::Check;
use ews_deploy::Reload;

/// A program that is installed, or what of it is missing.
pub(crate) type Found<P> = Result<P, String>;

/// A program of others.
#[async_trait]
pub(crate) trait Program: Send + Sync {
    /// The name of its service.
    fn name(&self) -> &'static str;

    /// The line that starts it.
    fn start(&self) -> String;

    /// The files of a version, each with its path in the instance.
    fn files(&self, version: &str) -> Vec<(&'static str, Vec<u8>)>;

    /// The file that a hotfix replaces by that of another version.
    fn fixed(&self) -> &'static str;

    /// How it is told of that.
    fn reload(&self) -> Reload;

    /// The files and directories of this machine that its image holds; what they link to comes with them.
    fn parts(&self) -> Vec<PathBuf>;

    /// How it is known to be ready.
    fn check(&self) -> Check;

    /// What its clients speak.
    fn protocol(&self) -> PoolProtocol {
        PoolProtocol::Http1
    }

    /// Further ports, which nobody but itself uses.
    fn more_ports(&self) -> &'static [&'static str] {
        &[]
    }

    /// Whether it has data, so that no two of it can run side by side and a new one finds what the old one has left.
    fn keeps_data(&self) -> bool {
        false
    }

    /// What else its instances need.
    fn refine(&self, _instance: &mut InstanceSpec) {}

    /// Asks which version is at an address.
    async fn version(&self, address: SocketAddr) -> io::Result<String>;

    /// Writes a word into its data.
    async fn remember(&self, _address: SocketAddr, _word: &str) -> io::Result<()> {
        Ok(())
    }

    /// Every word in its data, in order.
    async fn remembered(&self, _address: SocketAddr) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// Where a file of a package is.
pub(crate) fn installed(path: &str, package: &str) -> Found<PathBuf> {
    let path = Path::new(path);
    if path.exists() {
        Ok(path.to_owned())
    } else {
        Err(format!("{} of Debian's `{package}`", path.display()))
    }
}
