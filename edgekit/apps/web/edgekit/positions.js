/**
 * Positions of a model that counts image tokens like any other: 0, 1, 2, ...
 * @param {readonly number[]} ids
 * @returns {number[][]} One axis.
 */
export const plainPositions = (ids) => [ids.map((_, at) => at)];
