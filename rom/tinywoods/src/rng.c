/* rng.c: the two random streams, with the recurrences of the shared layout. The floor stream gives one seed per run
 * and one per floor; the in-floor stream starts from the floor seed and moves only with game events.
 */
#include "game.h"

u32 rng_below(u32 n)
{
    u32 state = G_RNG * 1566083941u + 1;

    G_RNG = state;
    return ((state >> 16) * n) >> 16;
}

int rng_percent(int percent)
{
    return (int)rng_below(100) < percent;
}

int rng_range(int low, int high)
{
    return low + (int)rng_below((u32)(high - low + 1));
}

u32 seed_draw(void)
{
    u32 high = G_SEED_RNG * 0x5D588B65u + 1, low = high * 0x5D588B65u + 1;

    G_SEED_RNG = low;
    return ((high >> 16) << 16 | low >> 16) & 0xFFFFFF;
}
