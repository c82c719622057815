// Package wire holds everything that crosses a process border of Fairlead: the
// frames between a client and a gateway, the subjects and headers of NATS
// messages, error and close codes, and the request and reply types of the
// services. It imports only the standard library, so that a worker or a client
// written in Go can use it.
//
// # The flow of protocol version 1
//
//	client                                gateway                        NATS
//	  | GET /ws (fairlead.v1)               |                              |
//	  | ----------------------------------> |                              |
//	  | {"op":"hello","id":1,"token":…}     |                              |
//	  | ----------------------------------> | SUB fl.user.<u> fl.conn.<c>  |
//	  | {"id":1,"ok":{"conn":…}}            | <--------- flushed --------> |
//	  | <---------------------------------- |                              |
//	  | {"op":"subscribe","id":2,…}         | SUB fl.topic.<topic>         |
//	  | ----------------------------------> | <--------- flushed --------> |
//	  | {"id":2,"ok":{"topic":…}}           |                              |
//	  | <---------------------------------- |                              |
//	  | {"op":"publish","id":3,…}           | PUB fl.topic.<topic>         |
//	  | ----------------------------------> | ---------------------------> |
//	  | {"id":3,"ok":{}}                    | <--------------------------- |
//	  | {"topic":…,"event":…,"data":…}      |                              |
//	  | <---------------------------------- |                              |
//
// A frame with `id` is a reply, one with `op` is a control frame, any other is
// a message. Payloads pass through byte for byte: they are validated once and
// never encoded again.
//
// # Where to read
//
// [Ops] is the table of what a client may ask, [DecodeFrames] its decoder and
// the Append functions the encoder. [Namespace] builds and parses subjects,
// [EscapeToken] turns ids into subject tokens. [Error] and [Code] say what a
// caller can do about a failure, [CloseCode] what a client does about a close.
//
// # Limits
//
// A topic has at most [MaxTopic] bytes, an array at most [MaxFrames] frames, a
// batch at most [MaxBatch] messages, a subject at most [MaxSubject] bytes; JSON
// nests at most 512 levels deep.
package wire
