//! What a program has written, kept in files that are bounded, framed and survive their writer.
