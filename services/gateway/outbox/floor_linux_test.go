package outbox

import (
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkFloor is what nobody can beat: the CPU of one bare write(2) to each
// of many sockets in turn, at the pace of `fairlead bench fanout --rate`, whose
// CPU per message is held against it, in one session on one machine.
func BenchmarkFloor(b *testing.B) {
	b.Run("n=100 rate=500", func(b *testing.B) { floor(b, 100, 2*time.Millisecond) })
	b.Run("n=1000 rate=50", func(b *testing.B) { floor(b, 1000, 20*time.Millisecond) })
}

func floor(b *testing.B, sockets int, every time.Duration) {
	const size = 170
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	var round, readers sync.WaitGroup
	fds := make([]int, sockets)
	for i := range fds {
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		server, err := listener.Accept()
		if err != nil {
			b.Fatal(err)
		}
		file, err := server.(*net.TCPConn).File()
		if err != nil {
			b.Fatal(err)
		}
		defer file.Close()
		fds[i] = int(file.Fd())
		server.Close()
		readers.Go(func() {
			defer client.Close()
			buf := make([]byte, size)
			for {
				n := 0
				for n < size {
					k, err := client.Read(buf[n:])
					if err != nil {
						return
					}
					n += k
				}
				round.Done()
			}
		})
	}
	payload := make([]byte, size)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var spent time.Duration
	writes := 0
	pace := time.NewTicker(every)
	defer pace.Stop()
	for b.Loop() {
		<-pace.C
		round.Add(sockets)
		before := threadCPU(b)
		for _, fd := range fds {
			if n, err := unix.Write(fd, payload); n != size || err != nil {
				b.Fatalf("write: %d, %v", n, err)
			}
		}
		spent += threadCPU(b) - before
		writes += sockets
		round.Wait()
	}
	b.ReportMetric(float64(spent.Microseconds())/float64(writes), "cpu-µs/write")
	for _, fd := range fds {
		_ = unix.Shutdown(fd, unix.SHUT_RDWR)
	}
	readers.Wait()
}

// threadCPU reads the thread's own clock: getrusage counts in ticks, which a
// burst of writes is shorter than.
func threadCPU(b *testing.B) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		b.Fatal(err)
	}
	return time.Duration(t.Nano())
}
