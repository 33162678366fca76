package sumd.client;

import java.util.concurrent.ThreadLocalRandom;

/**
 * Pauses between attempts: each twice the last, up to a second, with jitter, so that the clients of
 * a server that died do not all come to the next one together.
 */
final class Backoff {

  private static final double INITIAL_MILLIS = 50;
  private static final double MAX_MILLIS = 1000;

  private double millis = INITIAL_MILLIS;

  long nextMillis() {
    double pause = millis * ThreadLocalRandom.current().nextDouble(0.8, 1.2);
    millis = Math.min(2 * millis, MAX_MILLIS);
    return (long) pause;
  }

  /** Starts over, after a success. */
  void reset() {
    millis = INITIAL_MILLIS;
  }
}
