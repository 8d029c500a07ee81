package peer;

import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;

/** {@link Echo}, but for what a library has its own way for. */
public abstract class BaseEcho implements Echo {
    private final Map<Integer, CyclicBarrier> rallies = new ConcurrentHashMap<>();

    @Override
    public String say(String text) {
        return text;
    }

    @Override
    public String slow(String milliseconds) {
        try {
            Thread.sleep(Integer.parseInt(milliseconds));
        } catch (InterruptedException error) {
            throw new IllegalStateException(error);
        }
        return milliseconds;
    }

    @Override
    public String fail(String text) throws Refusal {
        throw new Refusal(text);
    }

    @Override
    public String rally(String count) throws InterruptedException {
        CyclicBarrier barrier =
            rallies.computeIfAbsent(Integer.parseInt(count), CyclicBarrier::new);
        try {
            barrier.await(40, TimeUnit.SECONDS);
        } catch (java.util.concurrent.BrokenBarrierException
            | java.util.concurrent.TimeoutException error) {
            return "only " + barrier.getNumberWaiting();
        }
        return count;
    }

    @Override
    public String note(String text) {
        Notes.add(text);
        return text;
    }

    @Override
    public String letters(String count) {
        return "x".repeat(Integer.parseInt(count));
    }
}
