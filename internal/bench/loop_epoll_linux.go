package bench

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// epollLoop is a loop on one operating system thread: level-triggered epoll,
// one read of up to 256 KiB per readiness, no goroutine per connection.
type epollLoop struct {
	config   loopConfig
	addr     unix.Sockaddr
	family   int
	epoll    int
	event    int // eventfd: posts and wakes
	timer    int // timerfd: the alarm
	conns    map[int32]*conn
	buf      []byte
	spent    loopUsage
	stopping bool

	mu      sync.Mutex
	posted  []func()
	wakened atomic.Bool // the eventfd is written to already
}

func newEpollLoop(config loopConfig) (loop, error) {
	tcp, err := net.ResolveTCPAddr("tcp", config.addr)
	if err != nil {
		return nil, err
	}
	l := &epollLoop{config: config, conns: map[int32]*conn{}, buf: make([]byte, 256<<10), family: unix.AF_INET, epoll: -1, event: -1, timer: -1}
	if ip4 := tcp.IP.To4(); ip4 != nil {
		l.addr = &unix.SockaddrInet4{Port: tcp.Port, Addr: [4]byte(ip4)}
	} else {
		l.family = unix.AF_INET6
		l.addr = &unix.SockaddrInet6{Port: tcp.Port, Addr: [16]byte(tcp.IP.To16())}
	}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		l.event, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	}
	if err == nil {
		l.timer, err = unix.TimerfdCreate(unix.CLOCK_REALTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	}
	for _, fd := range []int{l.event, l.timer} {
		if err == nil {
			err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
		}
	}
	if err != nil {
		l.release()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return l, nil
}

func (l *epollLoop) release() {
	for _, fd := range []int{l.epoll, l.event, l.timer} {
		if fd >= 0 {
			_ = unix.Close(fd) // nothing buffered
		}
	}
}

func (l *epollLoop) run() error {
	runtime.LockOSThread() // so that usage can ask for this thread's CPU
	defer runtime.UnlockOSThread()
	defer l.release()
	defer func() {
		for _, c := range l.conns {
			l.drop(c)
		}
	}()
	events := make([]unix.EpollEvent, 512)
	for !l.stopping {
		n, err := unix.EpollWait(l.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("epoll wait: %w", err)
		}
		woke := time.Now()
		for _, e := range events[:max(n, 0)] {
			switch int(e.Fd) {
			case l.event:
				l.drain(l.event)
				l.wakened.Store(false)
				l.runPosted()
			case l.timer:
				l.drain(l.timer)
			default:
				if c := l.conns[e.Fd]; c != nil {
					l.ready(c, e.Events)
				}
			}
		}
		l.config.turn()
		took := time.Since(woke)
		l.spent.busy += took
		l.spent.turns.Record(int64(took))
	}
	return nil
}

func (l *epollLoop) drain(fd int) {
	var b [8]byte
	_, _ = unix.Read(fd, b[:]) // a counter: read to reset it
}

func (l *epollLoop) runPosted() {
	l.mu.Lock()
	posted := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, fn := range posted {
		fn()
	}
}

func (l *epollLoop) ready(c *conn, events uint32) {
	if c.state == stateDialing {
		status, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && status != 0 {
			err = unix.Errno(status)
		}
		if err == nil {
			err = l.watch(c, unix.EPOLL_CTL_MOD, unix.EPOLLIN)
		}
		if err != nil {
			l.lose(c, err)
			return
		}
		c.connected(l.config.upgrade)
		return
	}
	if events&unix.EPOLLOUT != 0 {
		out := c.out
		c.out = nil
		l.send(c, out)
	}
	if events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) == 0 || c.state == stateClosed {
		return
	}
	n, err := unix.Read(c.fd, l.buf)
	switch {
	case n > 0:
		if err := c.feed(l.buf[:n], time.Now().UnixNano()); err != nil {
			l.lose(c, err)
		}
	case err == unix.EAGAIN || err == unix.EINTR:
	case err == nil:
		l.lose(c, io.ErrUnexpectedEOF)
	default:
		l.lose(c, err)
	}
}

func (l *epollLoop) watch(c *conn, op int, events uint32) error {
	return unix.EpollCtl(l.epoll, op, c.fd, &unix.EpollEvent{Events: events, Fd: int32(c.fd)})
}

func (l *epollLoop) dial(c *conn) {
	c.loop, c.fd = l, -1
	fd, err := unix.Socket(l.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		c.ended(fmt.Errorf("socket: %w", err))
		return
	}
	c.fd = fd
	l.conns[int32(fd)] = c
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err == nil {
		if err = unix.Connect(fd, l.addr); errors.Is(err, unix.EINPROGRESS) {
			err = nil
		}
	}
	if err == nil {
		err = l.watch(c, unix.EPOLL_CTL_ADD, unix.EPOLLOUT)
	}
	if err != nil {
		l.lose(c, err)
	}
}

func (l *epollLoop) send(c *conn, b []byte) {
	if c.state == stateClosed {
		return
	}
	if len(c.out) > 0 {
		c.out = append(c.out, b...)
		return
	}
	n, err := unix.Write(c.fd, b)
	if err == unix.EAGAIN || err == unix.EINTR {
		n, err = 0, nil
	}
	if err == nil && n < len(b) {
		c.out = append(c.out, b[n:]...)
		err = l.watch(c, unix.EPOLL_CTL_MOD, unix.EPOLLIN|unix.EPOLLOUT)
	} else if err == nil && c.out != nil {
		c.out = nil
		err = l.watch(c, unix.EPOLL_CTL_MOD, unix.EPOLLIN)
	}
	if err != nil {
		l.lose(c, err)
	}
}

func (l *epollLoop) lose(c *conn, err error) {
	l.forget(c)
	c.ended(err)
}

func (l *epollLoop) drop(c *conn) {
	l.forget(c)
	c.state = stateClosed
}

func (l *epollLoop) forget(c *conn) {
	if c.fd < 0 {
		return
	}
	delete(l.conns, int32(c.fd))
	// A reset leaves no port in TIME_WAIT, which repeated runs would exhaust.
	_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(c.fd)
	c.fd = -1
}

func (l *epollLoop) alarm(at time.Time) {
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(at.UnixNano(), 1))}
	_ = unix.TimerfdSettime(l.timer, unix.TFD_TIMER_ABSTIME, &spec, nil) // only a bad descriptor fails
}

func (l *epollLoop) post(fn func()) {
	l.mu.Lock()
	l.posted = append(l.posted, fn)
	l.mu.Unlock()
	l.wake()
}

func (l *epollLoop) wake() {
	if !l.wakened.Swap(true) {
		one := [8]byte{1, 0, 0, 0, 0, 0, 0, 0} // native order matters not: any number wakes
		_, _ = unix.Write(l.event, one[:])     // full means readable already
	}
}

func (l *epollLoop) stop() { l.post(func() { l.stopping = true }) }

func (l *epollLoop) usage() loopUsage {
	u := l.spent
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_THREAD, &r) == nil {
		u.cpu = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	return u
}

func (l *epollLoop) all() []*conn { return slices.Collect(maps.Values(l.conns)) }
