package peer;

import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;

/** What one-way calls brought. */
public final class Notes {
    private static final List<String> NOTES = new ArrayList<>();

    private Notes() {}

    /** One more. */
    public static void add(String text) {
        synchronized (NOTES) {
            NOTES.add(text);
            NOTES.notifyAll();
        }
    }

    /** Waits until there are so many, and takes them all. */
    public static List<String> take(int count) throws InterruptedException, TimeoutException {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(40);
        synchronized (NOTES) {
            while (NOTES.size() < count) {
                long left = TimeUnit.NANOSECONDS.toMillis(end - System.nanoTime());
                if (left <= 0) {
                    throw new TimeoutException(NOTES.size() + " of " + count + " notes: " + NOTES);
                }
                NOTES.wait(left);
            }
            List<String> taken = new ArrayList<>(NOTES);
            NOTES.clear();
            return taken;
        }
    }
}
