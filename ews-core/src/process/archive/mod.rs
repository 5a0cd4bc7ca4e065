//! Archives and artifacts: unpacked and packed so that nothing leads out of a directory.
