package peer;

import java.util.Map;
import java.util.concurrent.BrokenBarrierException;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

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
        int number = Integer.parseInt(count);
        CyclicBarrier barrier = rallies.computeIfAbsent(number, CyclicBarrier::new);
        try {
            barrier.await(40, TimeUnit.SECONDS);
        } catch (BrokenBarrierException | TimeoutException error) {
            // The next ones do not suffer from it.
            rallies.remove(number, barrier);
            return "not all came";
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
