package natsdev

// Lingering names the functions of goroutines that the server itself leaves
// behind when it is shut down while a stream is being made: its file store is
// begun and nobody stops it. Tests that look for leaks of ours ignore them.
func Lingering() []string {
	return []string{
		"github.com/nats-io/nats-server/v2/server.(*fileStore).flushStreamStateLoop",
		"github.com/nats-io/nats-server/v2/server/ats.Register.func1",
	}
}
