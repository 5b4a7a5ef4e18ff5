//! How strong the isolation is. A tier is chosen by trying, strongest first, and reported in every result.

use std::fmt;
use std::str::FromStr;

use crate::Error;

/// What stands between a judged program and this machine, strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IsolationTier {
    /// Namespaces made as root, a read-only root without /proc, an own uid, then all of the below.
    Root,
    /// The same namespaces inside a user namespace.
    UserNamespace,
    /// Landlock (no writing, reading of the standard library only), seccomp and rlimits.
    Landlock,
    /// Seccomp and rlimits: files of this user can be read. Only on request.
    Seccomp,
}

impl IsolationTier {
    /// The tiers that are good enough to be chosen without being asked for.
    pub const STRONG: [IsolationTier; 3] = [Self::Root, Self::UserNamespace, Self::Landlock];

    /// The name in results and settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::UserNamespace => "user_namespace",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
        }
    }
}

impl fmt::Display for IsolationTier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for IsolationTier {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let all = [Self::Root, Self::UserNamespace, Self::Landlock, Self::Seccomp];
        all.into_iter().find(|tier| tier.name() == name).ok_or_else(|| {
            Error::invalid(format!(
                "isolation is {name:?}: give \"root\", \"user_namespace\", \"landlock\" or \"seccomp\""
            ))
        })
    }
}
