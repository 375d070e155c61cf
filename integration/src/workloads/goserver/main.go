// A server in Go, for a checkpoint under load: answers each line TEXT with "N TEXT", N counting the
// lines of all clients. It listens as Go programs do, with whatever the runtime chooses; timers,
// goroutines and the garbage collector are busy meanwhile.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"time"
)

var lines atomic.Uint64

func serve(connection net.Conn) {
	defer connection.Close()
	input := bufio.NewScanner(connection)
	for input.Scan() {
		if _, err := fmt.Fprintf(connection, "%d %s\n", lines.Add(1), input.Text()); err != nil {
			return
		}
	}
}

func main() {
	listener, err := net.Listen("tcp", ":7100")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	go func() {
		var kept [16][]byte
		for step := 0; ; step++ {
			kept[step%len(kept)] = make([]byte, 1<<20)
			runtime.GC()
			time.Sleep(10 * time.Millisecond)
		}
	}()
	fmt.Println("serving")
	for {
		connection, err := listener.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		go serve(connection)
	}
}
