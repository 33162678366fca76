// Command load is the load for the net/rpc server, of the same shape as the bench's own load for gRPC.
//
// It prints "start" and "stop" at the edges of the measured window, so that the bench can read the
// server's CPU time at both, and then one line of JSON: {"calls", "p50_us", "p99_us"}.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net/rpc"
	"os"
	"slices"
	"sync"
	"time"
)

type request struct {
	values []int
	sum    int
}

// recorder keeps the latencies of all answered calls.
type recorder struct {
	mu        sync.Mutex
	latencies []time.Duration
}

func (r *recorder) add(latency time.Duration) {
	r.mu.Lock()
	r.latencies = append(r.latencies, latency)
	r.mu.Unlock()
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.latencies)
}

// caller makes one call after the other until the deadline, and checks every answer.
func caller(client *rpc.Client, requests []request, first int, deadline time.Time, r *recorder) {
	for i := first; ; i++ {
		sent := time.Now()
		if sent.After(deadline) {
			return
		}
		request, reply := requests[i%len(requests)], 0
		if err := client.Call("Arith.Add", request.values, &reply); err != nil {
			log.Fatal("call: ", err)
		}
		if reply != request.sum {
			log.Fatalf("wrong sum: got %d, want %d", reply, request.sum)
		}
		r.add(time.Since(sent))
	}
}

func makeRequests(distinct, values, bits int) []request {
	random := rand.New(rand.NewPCG(1, 2))
	requests := make([]request, distinct)
	for i := range requests {
		requests[i].values = make([]int, values)
		for j := range requests[i].values {
			value := int(random.Int64N(1 << bits))
			requests[i].values[j] = value
			requests[i].sum += value
		}
	}
	return requests
}

func main() {
	address := flag.String("address", "", "host:port of the server")
	connections := flag.Int("connections", 8, "number of connections")
	inFlight := flag.Int("in-flight", 32, "calls in flight on each connection")
	values := flag.Int("values", 3, "values a call")
	bits := flag.Int("bits", 20, "size of the values")
	distinct := flag.Int("distinct", 64, "number of different requests")
	warmUp := flag.Duration("warm-up", time.Second, "time before the measured window")
	window := flag.Duration("window", 3*time.Second, "the measured window")
	flag.Parse()

	requests := makeRequests(*distinct, *values, *bits)
	deadline := time.Now().Add(*warmUp + *window)
	var r recorder
	var callers sync.WaitGroup
	for c := range *connections {
		client, err := rpc.Dial("tcp", *address)
		if err != nil {
			log.Fatal("dial: ", err)
		}
		for i := range *inFlight {
			callers.Go(func() { caller(client, requests, c**inFlight+i, deadline, &r) })
		}
	}

	time.Sleep(*warmUp)
	first := r.count()
	fmt.Println("start")
	time.Sleep(*window)
	last := r.count()
	fmt.Println("stop")
	callers.Wait()

	report(r.latencies[first:last])
}

func report(latencies []time.Duration) {
	if len(latencies) == 0 {
		log.Fatal("no call was answered in the window")
	}
	slices.Sort(latencies)
	quantile := func(q float64) float64 {
		return latencies[int(q*float64(len(latencies)-1))].Seconds() * 1e6
	}
	err := json.NewEncoder(os.Stdout).Encode(map[string]any{
		"calls":  len(latencies),
		"p50_us": quantile(0.50),
		"p99_us": quantile(0.99),
	})
	if err != nil {
		log.Fatal(err)
	}
}
