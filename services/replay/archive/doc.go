// Package archive copies replayed streams to Postgres and reads them back. A
// [Copier] copies one stream; [Archive] is the copy.
//
// A stream keeps its newest messages and gives the older ones up; the archive
// keeps them until it is cleaned. Whoever resumes from a position that the
// stream no longer proves reads what is missing from the archive, up to where
// the stream begins.
//
//	archive   1 2 3 4 5 6 7 8 9 …   position: copied up to here
//	stream              6 7 8 9 10
//
// The archive says that a range is whole only where it can prove it:
//
//   - Messages are stored in one statement and acknowledged to JetStream when
//     that is committed: what is delivered again is there already.
//   - The position moves over sequences that are stored, one behind the other.
//     Where one is missing it waits until JetStream itself has nothing before
//     that outstanding; then what is missing was gone before it could be copied,
//     and is a hole. A range with a hole is not whole, for any topic: nobody
//     knows whose messages they were.
//   - A stream that was deleted and made anew, or that lost its tail, is another
//     log: its sequences mean other messages. Only the current log is read.
//
// What may happen, and what comes of it:
//
//	Postgres away   nothing is acknowledged; JetStream delivers it again
//	NATS away       the copier goes on when it is back
//	copier killed   what it had not acknowledged is delivered again, after ackWait
//	copier behind   what the stream evicts meanwhile is a hole
//	stream gone     the copier waits for it, and begins a new log
package archive
